"""Nothing that is read is executed: a pickle that leaves a mark, in place of every kind of file."""

import pickle
import shutil

import pytest

from stallscan import settings
from stallscan.bundle import disk
from stallscan.clips import store
from stallscan.errors import BundleError, InputError, SettingsError, StoreError, UnreadableError
from stallscan.nets import weights
from stallscan.recordings import video
from tests import bomb


def _bundle(folder, form, mark):
    bomb.write(folder / "bundle" / "weights.safetensors", form, mark)
    disk.load(folder / "bundle")


def _spec(folder, form, mark):
    bomb.write(folder / "bundle" / "bundle.json", form, mark)
    disk.load_any(folder / "bundle")


def _state(folder, form, mark):
    weights.read_state(bomb.write(folder / "state.pt", form, mark))


def _safetensors(folder, form, mark):
    weights.read_state(bomb.write(folder / "state.safetensors", form, mark))


def _recording(folder, form, mark):
    video.read_recording(bomb.write(folder / "recording.npy", form, mark))


def _manifest(folder, form, mark):
    store.Store(bomb.write(folder / "store" / "manifest.json", form, mark).parent)


@pytest.mark.parametrize("form", bomb.FORMS)
@pytest.mark.parametrize("place", [_bundle, _spec, _state, _safetensors, _recording, _manifest])
def test_a_pickle_is_not_loaded(tmp_path, bundle_dir, form, place):
    mark = tmp_path / "mark"
    shutil.copytree(bundle_dir, tmp_path / "bundle")
    with pytest.raises((BundleError, InputError, StoreError, UnreadableError)) as caught:
        place(tmp_path, form, mark)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)


def test_the_pickle_works(tmp_path):
    """Otherwise the tests above would prove nothing."""
    content = bomb.write(tmp_path / "p", "pickle", tmp_path / "mark").read_bytes()
    pickle.loads(content)
    assert (tmp_path / "mark").is_dir()


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']\n")
    with pytest.raises(SettingsError, match=r"recipe\.yaml"):
        settings.read_yaml(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["../a", "/a", "..", ".", "", "a b", "a\n", "x" * 101, "\\a", "é"])
def test_what_is_no_name_of_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="letters"):
        settings.check_name(name)
    assert settings.check_name(settings.as_name(name))


@pytest.mark.parametrize("name", ["default", "a.b_c+d-e", "1-net", "x" * 100])
def test_a_plain_name_stays(name):
    assert settings.check_name(name) == settings.as_name(name) == name


def test_a_shard_lies_in_its_store():
    with pytest.raises(SettingsError, match="file"):
        store.Shard.parse({"file": "../other/a.safetensors", "sha256": "", "recordings": 1}, "s")
