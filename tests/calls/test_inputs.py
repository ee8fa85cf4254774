"""Predictions from a store are those from the recordings, or the store is refused."""

import shutil

import pytest

from stallscan.bundle import disk
from stallscan.bundle.spec import EnsembleSpec
from stallscan.calls import inputs, predict
from stallscan.clips import fill, store
from stallscan.errors import InputError, StoreError
from stallscan.recordings import find
from tests import drawing


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Recordings with each possible status."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(3):
        drawing.write(folder / f"{index}.mp4", seed=index, count=6 + index)
    drawing.write_dark(folder / "dark.mp4")
    drawing.write(folder / "none.mp4", contours=0)
    drawing.write(folder / "one_frame.mp4", count=1)
    (folder / "empty.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def clips(recordings, bundle_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "RECORDINGS_PER_SHARD", 3)
        sources = find.list_recordings([recordings])
        fill.build(folder, sources, *inputs.view_of(bundle_dir), processes=0)
    return folder


def _joined(bundle_dir, where, **changes):
    """Save an ensemble of the bundle and a copy with other clip settings."""
    first = disk.load(bundle_dir)
    clip = first.spec.clip.model_copy(update=changes)
    spec = first.spec.model_copy(update={"name": "second", "clip": clip, "threshold": 0.4})
    disk.save(where / "second", spec, first.weights, "# for tests\n")
    members = [first, disk.load(where / "second")]
    joined = EnsembleSpec(
        name="both",
        members=("a", "b"),
        members_sha256=tuple(member.spec.weights_sha256 for member in members),
        weights=(1.0, 1.0),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    disk.save_ensemble(where / "joined", joined, members, "# for tests\n")
    return where / "joined"


def _same_predictions(recordings, clips, out, which):
    for name, paths in (("recordings", [recordings]), ("clips", [clips])):
        predict.predict(paths, out / name, which, processes=0)
    for table in ("predictions.csv", "traits.csv"):
        expected = (out / "recordings" / table).read_bytes()
        assert (out / "clips" / table).read_bytes() == expected
    return expected


def test_predictions_from_a_store_are_those_from_the_recordings(
    recordings, clips, tmp_path, bundle_dir
):
    _same_predictions(recordings, clips, tmp_path, bundle_dir)
    table = tmp_path / "clips" / "predictions.csv"
    whole = table.read_text()
    assert all(
        f",{status}," in whole
        for status in ("ok", "too_dark", "no_outline", "too_short", "unreadable")
    )
    # An interrupted run resumes.
    table.write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert predict.predict([clips], tmp_path / "clips", bundle_dir).resumed == 3
    assert table.read_text() == whole


def test_a_store_suffices_without_the_recordings(recordings, clips, tmp_path, bundle_dir):
    there = shutil.copytree(recordings, tmp_path / "there")
    made = fill.build(
        tmp_path / "made",
        find.list_recordings([there]),
        *inputs.view_of(bundle_dir),
        processes=0,
    )
    shutil.rmtree(there)
    summary = predict.predict([made.folder], tmp_path / "out", bundle_dir)
    assert sum(summary.calls.values()) == 7


def test_members_with_equal_preprocessing_share_a_store(recordings, clips, tmp_path, bundle_dir):
    joined = _joined(bundle_dir, tmp_path)
    assert inputs.view_of(joined) == store.Store(clips).manifest.view
    _same_predictions(recordings, clips, tmp_path, joined)


def test_members_with_different_preprocessing_need_separate_stores(clips, tmp_path, bundle_dir):
    joined = _joined(bundle_dir, tmp_path, size=48)
    with pytest.raises(InputError, match=r"--bundle .*members/a, or --bundle .*members/b$"):
        inputs.view_of(joined)
    with pytest.raises(StoreError, match=r"second@\w+ \(clip\.size .*32.*48.*members/b"):
        predict.predict([clips], tmp_path / "out", joined)
    assert not (tmp_path / "out").exists()


def test_a_store_and_recordings_are_not_mixed(recordings, clips, tmp_path, bundle_dir):
    with pytest.raises(InputError, match="store"):
        predict.predict([recordings, clips], tmp_path / "out", bundle_dir)
