"""Plans: what is in their lists, and which are refused."""

import csv
import json
import shutil

import pytest

from stallscan.bundle import disk, learned
from stallscan.catalog import tables
from stallscan.clips import fill
from stallscan.clips.clip import ClipSettings
from stallscan.errors import BundleError, InputError, StoreError, TableError
from stallscan.recordings.find import find_recordings
from stallscan.scale import plan as plans
from stallscan.scale.place import FolderPlace
from stallscan.vessels.outline import OutlineSettings
from tests.tables import METADATA, TEST_METADATA


def _make(paths, folder, **options):
    return plans.make(paths, FolderPlace(folder), **options)


def _items(folder):
    place = FolderPlace(folder)
    plan = plans.read(place)
    return [plans.read_list(place, plan, number) for number in plan.shards]


def test_the_lists_hold_all_recordings_in_order(recordings, tmp_path):
    plan, is_new = _make([recordings], tmp_path, shard_size=2)
    assert is_new
    found = find_recordings([recordings]).sources
    lists = _items(tmp_path)
    assert [len(items) for items in lists] == [2, 2, 1] == list(map(plan.size, plan.shards))
    assert [item.filename for items in lists for item in items] == [name for name, _ in found]
    assert [item.where for items in lists for item in items] == [str(path) for _, path in found]
    assert plans.read(FolderPlace(tmp_path)) == plan


def test_the_same_plan_again_changes_nothing(recordings, tmp_path):
    _make([recordings], tmp_path, shard_size=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert not _make([recordings], tmp_path, shard_size=2).is_new
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("other", [{"shard_size": 3}, {"prevalence": 0.02}])
def test_another_plan_in_the_same_place_is_refused(recordings, tmp_path, other):
    _make([recordings], tmp_path, shard_size=2)
    with pytest.raises(InputError, match=f"{next(iter(other))} was .*-o"):
        _make([recordings], tmp_path, **{"shard_size": 2} | other)


def test_a_path_may_have_any_characters(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a,b.npy", "line\nbreak.npy", "lone\rreturn.npy", "\udcfc.npy"):
        (folder / name).touch()
    _make([folder], tmp_path / "plan")
    found = find_recordings([folder]).sources
    (items,) = _items(tmp_path / "plan")
    assert [(item.filename, item.where) for item in items] == [
        (name, str(path)) for name, path in found
    ]


@pytest.mark.parametrize("content", [METADATA, TEST_METADATA])
def test_a_table_gives_urls_and_nothing_is_looked_at(tmp_path, content):
    (tmp_path / "metadata.csv").write_text(content)
    plan = _make([tmp_path / "metadata.csv"], tmp_path / "plan", shard_size=2).plan
    assert plan.kind == "urls"
    table = tables.read_metadata(tmp_path / "metadata.csv")
    items = [tuple(item) for items in _items(tmp_path / "plan") for item in items]
    assert items == list(zip(table["filename"], table["url"], strict=True))


def test_a_table_with_a_name_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text(METADATA.replace("100000.mp4,", "../1.mp4,", 1))
    with pytest.raises(InputError, match=r"\.\./1\.mp4"):
        _make([tmp_path / "metadata.csv"], tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("text", "kind"),
    [("filename,stalled\n1.mp4,0\n", TableError), (METADATA.partition("\n")[0] + "\n", InputError)],
    ids=["other columns", "no rows"],
)
def test_another_table_is_refused(tmp_path, text, kind):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(kind, match=r"table\.csv"):
        _make([tmp_path / "table.csv"], tmp_path / "plan")


@pytest.mark.parametrize("size", [0, -1])
def test_an_absurd_size_is_refused(recordings, tmp_path, size):
    with pytest.raises(InputError, match="shard size"):
        _make([recordings], tmp_path, shard_size=size)


def test_too_many_shards_are_refused(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "MOST_SHARDS", 4)
    with pytest.raises(InputError, match="--shard-size"):
        _make([recordings], tmp_path, shard_size=1)


def test_a_plan_of_a_newer_version_is_refused(done):
    path = done.folder / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match=r"format 2.*Use the version"):
        plans.read(done.place)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}'])
def test_a_damaged_plan_is_refused(done, content):
    (done.folder / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        plans.read(done.place)


def test_a_plan_with_too_few_lists_is_refused(done):
    path = done.folder / "plan.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"lists": content["lists"][:2]}))
    with pytest.raises(InputError, match="do not make 2 lists"):
        plans.read(done.place)


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="stallscan plan PATH"):
        plans.read(FolderPlace(tmp_path))


def test_a_changed_list_is_refused(done):
    path = done.folder / plans.list_name(1)
    rows = list(csv.reader(path.read_text().splitlines()))
    rows[1:] = reversed(rows[1:])
    path.write_text("\n".join(map(",".join, rows)))
    with pytest.raises(InputError, match=r"shard-0001\.csv: has changed"):
        plans.read_list(done.place, done.plan, 1)
    path.unlink()
    with pytest.raises(InputError, match=r"shard-0001\.csv: is missing"):
        plans.read_list(done.place, done.plan, 1)


def test_a_bundle_with_another_threshold_is_another_bundle(done, tmp_path):
    model = done.plan.load_model()
    shutil.copytree(model.path, tmp_path / "bundle")
    assert done.plan.load_model(str(tmp_path / "bundle")).spec == model.spec
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.6}))
    # The label, a hash of the weights, is the same.
    assert disk.load_any(tmp_path / "bundle").label == done.plan.bundle
    with pytest.raises(BundleError, match="not the bundle that this plan was made with"):
        done.plan.load_model(str(tmp_path / "bundle"))


def test_a_bundle_that_has_learned_from_other_recordings_is_another_bundle(done, tmp_path):
    shutil.copytree(done.plan.load_model().path, tmp_path / "bundle")
    learned.write(tmp_path / "bundle", ["0" * learned.DIGITS])
    with pytest.raises(BundleError, match=r"learned\.json"):
        done.plan.load_model(str(tmp_path / "bundle"))


def test_a_bundle_that_is_gone_is_said(done):
    gone = done.plan.model_copy(update={"bundle_path": "/nowhere/bundle"})
    with pytest.raises(BundleError, match="--bundle FOLDER"):
        gone.load_model()


def test_a_store_of_another_bundle_is_refused(recordings, tmp_path):
    sources = find_recordings([recordings]).sources
    clip = ClipSettings(size=16, channels="grey")
    fill.build(tmp_path / "store", sources, OutlineSettings(), clip, processes=0)
    with pytest.raises(StoreError, match="do not match"):
        _make([tmp_path / "store"], tmp_path / "plan")
