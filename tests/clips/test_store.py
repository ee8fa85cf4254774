import contextlib
import csv
import json
import pickle
import random
import shutil

import numpy as np
import pytest
import safetensors

from stallscan import files, runs, stamps
from stallscan.clips import fill, prepare, store, verify
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError, StoreError
from stallscan.recordings import recording
from stallscan.recordings.find import Source
from stallscan.vessels.outline import OutlineSettings
from tests import drawing, memory

CLIP = ClipSettings(size=24, channels="grey+mask")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    drawn = [
        Source(f"{i}.mp4", drawing.write(folder / f"{i}.mp4", seed=i, count=6 + i))
        for i in range(5)
    ]
    drawn.insert(2, Source("x.mp4", drawing.write(folder / "x.mp4", contours=0)))
    return drawn


def _build(folder, sources, **options):
    return fill.build(folder, sources, OutlineSettings(), CLIP, processes=0, **options)


def test_clips_come_back_as_prediction_makes_them(tmp_path, sources):
    filled = _build(tmp_path, sources)
    for source in sources:
        prepared = prepare.one(source, [Preprocessing(OutlineSettings(), CLIP)])
        assert (source.filename in filled) == (prepared.clip is not None)
        if prepared.clip is not None:
            assert np.array_equal(filled.read(source.filename), prepared.clip.pixels)
            assert filled.frames(source.filename) == prepared.frames


def test_traits_are_kept_with_the_clips(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    filled = _build(tmp_path, sources)
    table = filled.traits(["3.mp4", "0.mp4", "x.mp4"])
    for row, number in ((0, 3), (1, 0)):
        whole = prepare.one(
            sources[number + (number > 1)], [Preprocessing(OutlineSettings(), CLIP)]
        )
        assert tuple(table.iloc[row]) == pytest.approx(tuple(whole.clip.traits))
    assert len(table) == 2
    (tmp_path / filled.manifest.shards[0].file).write_bytes(b"other")
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors"):
        filled.traits(["0.mp4"])


def test_all_that_preparation_gave_comes_back_in_order(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    filled = _build(tmp_path, sources)
    assert len(filled) == 6
    for start in (0, 3, 6):
        streamed = list(filled.stream(source.filename for source in sources[start:]))
        assert len(streamed) == 6 - start
        for ours, source in zip(streamed, sources[start:], strict=True):
            _same(ours, prepare.one(source, [Preprocessing(OutlineSettings(), CLIP)]))


def _same(ours, theirs):
    for name in ("source", "status", "reason", "frames", "frames_declared"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(ours.clips) == len(theirs.clips)
    for mine, other in zip(ours.clips, theirs.clips, strict=True):
        assert np.array_equal(mine.pixels, other.pixels)
        assert mine.pixels.flags.writeable
        assert (mine.box, mine.traits) == (other.box, other.traits)


def test_a_shard_is_a_safetensors_file_that_others_may_read(tmp_path, sources):
    filled = _build(tmp_path, sources)
    (path,) = tmp_path.glob(store.SHARDS)
    with safetensors.safe_open(path, framework="np") as opened:
        assert sorted(opened.keys()) == [f"{i}.mp4" for i in range(5)]
        assert np.array_equal(opened.get_tensor("3.mp4"), filled.read("3.mp4"))
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert path.stat().st_mode == (tmp_path / "manifest.json").stat().st_mode


def test_a_store_goes_to_other_processes(tmp_path, sources):
    filled = _build(tmp_path, sources)
    theirs = pickle.loads(pickle.dumps(filled))
    assert np.array_equal(theirs.read("1.mp4"), filled.read("1.mp4"))


def test_failures_are_kept_with_their_reason(tmp_path, sources):
    filled = _build(tmp_path, sources)
    (failure,) = filled.failures()
    assert (failure.filename, failure.status) == ("x.mp4", "no_outline")
    assert "x.mp4" in failure.reason
    assert filled.count() == {"ok": 5, "no_outline": 1}


def test_recordings_without_any_clip_make_a_store(tmp_path, sources):
    filled = _build(tmp_path, sources[2:3])
    assert "x.mp4" not in filled
    assert [item.status for item in filled.stream()] == ["no_outline"]
    assert verify.find_damage(tmp_path) == []


def test_the_table_has_a_row_for_every_recording(tmp_path, sources):
    _build(tmp_path, sources)
    with (tmp_path / "recordings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == store.TABLE_COLUMNS
    assert [row["filename"] for row in rows] == [source.filename for source in sources]
    assert [row["status"] for row in rows] == ["ok", "ok", "no_outline", "ok", "ok", "ok"]
    assert rows[0] | {"filename": "", "reason": ""} == {
        "filename": "",
        "status": "ok",
        "reason": "",
        "frames": "6",
        "frames_declared": "6",
        "shard": "shard-00000.safetensors",
    }


def test_a_file_that_was_not_readable_is_tried_again(tmp_path, sources):
    late = Source("late.mp4", tmp_path / "late.mp4")
    filled = _build(tmp_path / "store", [*sources, late])
    assert [row.filename for row in filled.failures()] == ["x.mp4", "late.mp4"]
    before = _content(tmp_path / "store"), _times(tmp_path / "store")
    _build(tmp_path / "store", [*sources, late])  # in vain: nothing is written twice
    assert (_content(tmp_path / "store"), _times(tmp_path / "store")) == before
    late.path.touch()
    filled = _build(tmp_path / "store", [*sources, late])
    assert "empty" in filled.failures()[1].reason
    drawing.write(late.path, count=6)
    last = Source("last.mp4", drawing.write(tmp_path / "last.mp4", count=7))
    filled = _build(tmp_path / "store", [*sources, late, last])
    assert "late.mp4" in filled
    assert [row.filename for row in filled.failures()] == ["x.mp4"]
    names = [source.filename for source in (*sources, late, last)]
    assert [row.filename for row in filled.rows()] == names
    (tmp_path / "store" / "shard-00000.safetensors").unlink()
    filled = _build(tmp_path / "store", [*sources, late, last])
    assert {row.filename: row.status for row in filled.rows()}["late.mp4"] == "ok"


def _recording(path, **drawn):
    return Source(path.name, drawing.write(path, **drawn))


def _content_of(filled, name):
    return filled.read(name).tobytes()


def test_a_recording_that_was_replaced_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 1)
    given = [_recording(tmp_path / f"{i}.mp4", seed=i, count=8) for i in range(3)]
    filled = _build(tmp_path / "store", given)
    before = {source.filename: _content_of(filled, source.filename) for source in given}
    drawing.write(given[1].path, seed=9, count=9)
    filled = _build(tmp_path / "store", given)
    assert [row.filename for row in filled.rows()] == ["0.mp4", "1.mp4", "2.mp4"]
    assert filled.frames("1.mp4") == 9
    assert _content_of(filled, "1.mp4") != before["1.mp4"]
    assert _content_of(filled, "0.mp4") == before["0.mp4"]
    # Whatever shard is lost, the newest row counts: shard 1 has the first, shard 3 the second.
    for lost in ("shard-00001.safetensors", "shard-00003.safetensors"):
        (tmp_path / "store" / lost).unlink()
        drawing.write(given[1].path, seed=10, count=10)
        assert _build(tmp_path / "store", given).frames("1.mp4") == 10
    # One that cannot be read any more has no clip any more.
    given[1].path.write_bytes(b"")
    filled = _build(tmp_path / "store", given)
    assert "1.mp4" not in filled
    assert filled.count() == {"ok": 2, "unreadable": 1}


def test_a_finished_store_says_that_it_did_nothing(tmp_path, sources, caplog):
    _build(tmp_path, sources)
    before = _content(tmp_path), _times(tmp_path)
    with caplog.at_level("INFO", "stallscan"):
        _build(tmp_path, sources)
    assert f"{tmp_path}: " in caplog.text
    assert "all 6 recordings" in caplog.text
    assert (_content(tmp_path), _times(tmp_path)) == before


def test_a_store_of_an_older_version_is_resumed_and_says_what_is_not_known(
    tmp_path, sources, caplog, monkeypatch
):
    with monkeypatch.context() as older:
        older.setattr(stamps.Stamp, "of", lambda _path: None)
        filled = _build(tmp_path, sources[:3])
    assert all(row.stamp is None for row in filled.rows())
    with caplog.at_level("INFO", "stallscan"):
        assert len(_build(tmp_path, sources)) == 6
    assert "3 of 6" in caplog.text
    assert "3 were" in caplog.text


def test_a_damaged_recording_is_tried_again_where_nothing_says_that_it_is_the_same(
    tmp_path, monkeypatch
):
    given = [_recording(tmp_path / "0.mp4", count=30)]
    monkeypatch.setattr(recording.Recording, "is_damaged", True)
    with monkeypatch.context() as older:
        older.setattr(stamps.Stamp, "of", lambda _path: None)
        assert _build(tmp_path / "store", given).count() == {"damaged": 1}
    _build(tmp_path / "store", given)
    before = _content(tmp_path / "store")
    assert len(before) == 4  # manifest, table and two shards
    _build(tmp_path / "store", given)  # as it was: not again
    assert _content(tmp_path / "store") == before
    monkeypatch.setattr(recording.Recording, "is_damaged", False)
    drawing.write(given[0].path, count=31)
    assert _build(tmp_path / "store", given).count() == {"ok": 1}


def test_recordings_that_changed_since_are_said_when_the_store_is_read(tmp_path, caplog):
    given = [_recording(tmp_path / f"{i}.mp4", seed=i, count=5) for i in range(2)]
    filled = _build(tmp_path / "store", given)
    given[0].path.unlink()
    filled.warn_of_replaced()
    assert caplog.text == ""
    drawing.write(given[1].path, seed=9, count=6)
    filled.warn_of_replaced()
    assert "1 of its 2 recordings" in caplog.text
    assert "1.mp4" in caplog.text


def test_a_store_has_one_writer(tmp_path, sources):
    with runs.hold(tmp_path / "a"), pytest.raises(InputError, match=str(tmp_path / "a")):
        _build(tmp_path / "a", sources)
    assert not list((tmp_path / "a").glob("[!.]*"))


def _times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def test_recordings_that_prediction_would_not_call_are_known(tmp_path):
    drawing.write_dark(tmp_path / "dark.mp4")
    drawing.write(tmp_path / "good.mp4", count=12)
    both = [Source(name, tmp_path / name) for name in ("dark.mp4", "good.mp4")]
    filled = _build(tmp_path / "store", both)
    assert "dark.mp4" in filled
    assert filled.not_ok() == {"dark.mp4": "too_dark"}


def test_an_interrupted_build_resumes(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)

    def stop(done, _of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "a", sources, progress=stop)
    seen = []
    resumed = _build(tmp_path / "a", sources, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert resumed.manifest == _build(tmp_path / "b", sources).manifest
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_large_clips_fill_a_shard_sooner(tmp_path, sources, monkeypatch):
    clip_bytes = 6 * CLIP.size**2 * 2
    monkeypatch.setattr(fill, "BYTES_PER_SHARD", 2 * clip_bytes)
    filled = _build(tmp_path, sources)
    assert [entry.recordings for entry in filled.manifest.shards] == [2, 3, 1]


def test_another_recording_of_the_same_name_is_refused(tmp_path, sources):
    moved = tmp_path / "moved"
    shutil.copytree(sources[0].path.parent, moved / "a")
    ours = [Source(source.filename, moved / "a" / source.filename) for source in sources]
    _build(tmp_path / "store", ours[:2])
    assert len(_build(tmp_path / "store", sources[:3])) == 3  # a copy is the same recording
    other = Source("0.mp4", drawing.write(tmp_path / "other" / "0.mp4", seed=9))
    with pytest.raises(StoreError, match=r"0\.mp4 .*moved/a/0\.mp4.* .*other/0\.mp4"):
        _build(tmp_path / "store", [other, *sources[1:]])
    (moved / "a").rename(moved / "b")
    there = [Source(source.filename, moved / "b" / source.filename) for source in sources]
    assert len(_build(tmp_path / "store", there)) == 6


def test_a_store_is_filled_from_anywhere(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    asked = []

    def make(todo):
        asked.append([source.filename for source in todo])
        for source in todo:
            yield prepare.one(source, [Preprocessing(OutlineSettings(), CLIP)])

    fill.fill(tmp_path, sources[:4], make, OutlineSettings(), CLIP)
    fill.fill(tmp_path, sources, make, OutlineSettings(), CLIP)
    assert asked == [["0.mp4", "1.mp4", "x.mp4", "2.mp4"], ["3.mp4", "4.mp4"]]
    filled = Store(tmp_path)
    assert all(source.filename in filled for source in sources if source.filename != "x.mp4")


def test_differences_name_each_setting(tmp_path, sources):
    filled = _build(tmp_path, sources[:1])
    assert filled.manifest.differences(Preprocessing(OutlineSettings(), CLIP)) == []
    filled.require(Preprocessing(OutlineSettings(), CLIP), "us", "--ours")
    other = Preprocessing(
        OutlineSettings(rule="third-place"), CLIP.model_copy(update={"size": 48, "margin": 9})
    )
    assert filled.manifest.differences(other) == [
        "outline.rule is contour, not third-place",
        "clip.size is 24, not 48",
        "clip.margin is 5, not 9",
    ]
    with pytest.raises(StoreError, match=r" them \(.*clip\.size is 24, not 48.* --theirs"):
        filled.require(other, "them", "--theirs")


def test_other_settings_are_refused_and_both_shown(tmp_path, sources):
    _build(tmp_path, sources)
    other = CLIP.model_copy(update={"size": 48})
    with pytest.raises(StoreError, match=r"clip\.size is 24, not 48"):
        fill.build(tmp_path, sources, OutlineSettings(), other, processes=0)


def test_a_full_disk_is_an_error_that_keeps_the_written_shards(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"shard-00002\.safetensors: .*-o$"):
            _build(tmp_path / "a", sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    assert sorted(_content(tmp_path / "a")) == names
    _build(tmp_path / "a", sources)
    _build(tmp_path / "b", sources)
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sources):
    """A store of three shards, and what it holds."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
        filled = _build(folder, sources)
    return folder, {item.source.filename: item for item in filled.stream()}


def _read_all(folder, expected):
    """Whether all that was written comes back; what comes back is never anything else."""
    filled = store.Store(folder)
    assert [row.filename for row in filled.rows()] == list(expected)
    whole = True
    for filename, item in expected.items():
        assert (filename in filled) == (item.clip is not None)
        if item.clip is None:
            continue
        try:
            pixels = filled.read(filename)
        except StoreError:
            whole = False
        else:
            assert np.array_equal(pixels, item.clip.pixels)
    return whole


def _damage(path, rng):
    """Flip one bit of a file, or cut it short, or make it longer."""
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    kind = rng.choice(["header", "anywhere", "anywhere", "cut", "longer"])
    if kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "longer":
        content += rng.randbytes(rng.randrange(1, 100))
    else:
        place = rng.randrange(header if kind == "header" else len(content))
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{kind}, {len(content)} bytes"


def test_what_is_read_of_a_damaged_store_is_right_or_refused(whole, tmp_path):
    folder, expected = whole
    rng = random.Random(7)
    assert _read_all(folder, expected)
    shards = sorted(path.name for path in folder.glob(store.SHARDS))
    assert len(shards) == 3
    for trial in range(150):
        copy = tmp_path / str(trial)
        shutil.copytree(folder, copy)
        name = rng.choice(shards)
        done = _damage(copy / name, rng)
        (damage,) = verify.find_damage(copy)
        assert damage.file == name, done
        assert str(copy / name) in damage.what
        with contextlib.suppress(StoreError):  # of what cannot even be opened
            assert not _read_all(copy, expected), done
        shutil.rmtree(copy)


def test_a_damaged_manifest_is_refused_or_as_it_was(whole, tmp_path):
    folder, expected = whole
    rng = random.Random(8)
    content = (folder / "manifest.json").read_bytes()
    shutil.copytree(folder, tmp_path / "store")
    for _ in range(150):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "store" / "manifest.json").write_bytes(changed)
        with contextlib.suppress(StoreError):
            assert _read_all(tmp_path / "store", expected)


@pytest.mark.parametrize("by", ["missing", "exchanged", "other store"])
def test_files_that_are_not_where_they_were_are_named(whole, sources, tmp_path, by):
    folder, expected = whole
    copy = tmp_path / "store"
    shutil.copytree(folder, copy)
    first, second, _ = sorted(copy.glob(store.SHARDS))
    if by == "missing":
        second.unlink()
        bad = [second]
    elif by == "exchanged":
        first.rename(tmp_path / "other")
        second.rename(first)
        (tmp_path / "other").rename(second)
        bad = [first, second]
    else:
        _build(tmp_path / "other", sources[:2])
        shutil.copy(tmp_path / "other" / first.name, second)
        bad = [second]
    damaged = verify.find_damage(copy)
    assert [damage.file for damage in damaged] == [path.name for path in bad]
    lost = {"shard-00000.safetensors": ("0.mp4", "1.mp4")}
    for damage in damaged:
        assert damage.lost == 2
        assert damage.recordings == lost.get(damage.file, ("x.mp4", "2.mp4"))
    with pytest.raises(StoreError, match=bad[0].name):
        _read_all(copy, expected)


def test_pixels_that_go_bad_while_the_store_is_open_are_refused(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "store")
    filled = store.Store(tmp_path / "store")
    path = tmp_path / "store" / "shard-00000.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"shard-00000\.safetensors: .*damaged"):
            filled.read("1.mp4")
    path.unlink()
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: .*missing"):
        filled.read("1.mp4")


def test_a_lost_shard_is_made_again_in_its_place(whole, sources, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "store")
    path = tmp_path / "store" / "shard-00001.safetensors"
    for content in (None, path.read_bytes()[:-1], b"", bytes(8) + path.read_bytes()[8:]):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        asked = []
        _build(tmp_path / "store", sources, progress=lambda *done, asked=asked: asked.append(done))
        assert asked[0] == (4, 6)
        assert _content(tmp_path / "store") == _content(folder)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 4
    assert all("shard-00001.safetensors: " in message for message in warned)


def test_a_shard_of_another_version_is_refused(tmp_path, sources):
    _build(tmp_path, sources[:1])
    (path,) = tmp_path.glob(store.SHARDS)
    content = path.read_bytes()
    changed = content.replace(b"frames_declared", b"frames_announce")
    path.write_bytes(changed)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    end = 8 + int.from_bytes(changed[:8], "little")
    manifest["shards"][0]["sha256"] = files.sha256_of(changed[:end])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=rf"{path.name}: .*version"):
        store.Store(tmp_path)


def test_a_store_of_the_first_format_is_refused(tmp_path, sources):
    _build(tmp_path, sources[:1])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(StoreError, match=r"manifest\.json: .*format 1\b.* format 2\b"):
        store.Store(tmp_path)


def test_a_store_is_taken_by_itself(whole, sources, tmp_path):
    folder, _ = whole
    assert store.open_if_store([source.path for source in sources]) is None
    assert len(store.open_if_store([folder])) == 6
    with pytest.raises(InputError, match=str(folder)):
        store.open_if_store([sources[0].path, folder])
    # a list of downloads is no store
    (tmp_path / "manifest.json").write_text("{}")
    assert store.open_if_store([tmp_path]) is None


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(StoreError, match=r"manifest\.json: "):
        Store(tmp_path)


@pytest.mark.slow
@memory.needs_proc
def test_memory_does_not_grow_with_the_store(tmp_path):
    script = """
import sys
from pathlib import Path
import numpy as np
from stallscan.clips import fill
from stallscan.clips.clip import Clip, ClipSettings
from stallscan.clips.prepare import Prepared
from stallscan.clips.traits import Traits
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Box
from stallscan.vessels.outline import OutlineSettings

def make(todo):
    random = np.random.default_rng(0)
    for source in todo:
        pixels = random.integers(0, 256, (60, 64, 64, 2), dtype=np.uint8)
        clip = Clip(pixels, Box(0, 9, 0, 9), Traits(*range(13)))
        yield Prepared(source, "ok", "", 60, 60, (clip,))

sources = [Source(f"{index}.mp4", Path(f"{index}.mp4")) for index in range(int(sys.argv[2]))]
settings = ClipSettings(size=64, channels="grey+mask")
filled = fill.fill(Path(sys.argv[1]), sources, make, OutlineSettings(), settings)
assert sum(1 for _ in filled.stream()) == len(sources)
"""
    few = memory.peak_bytes(script, tmp_path / "few", 256)
    many = memory.peak_bytes(script, tmp_path / "many", 1536)
    assert many < few + 50e6  # their pixels take 630 MB more
    assert many < 600e6


def test_a_store_that_is_not_finished_is_refused(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    view = Preprocessing(OutlineSettings(), CLIP)

    def stops(todo):
        yield from prepare.many(todo[:3], [view], 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill.fill(tmp_path, sources, stops, *view)
    with pytest.raises(StoreError, match=rf"{tmp_path}: .*\b2 recordings"):
        Store(tmp_path).require(view, "the bundle x", "--bundle x")
    _build(tmp_path, sources).require(view, "the bundle x", "--bundle x")
    more = [Source(f"more {each.filename}", each.path) for each in sources]
    with pytest.raises(KeyboardInterrupt):
        fill.fill(tmp_path, [*sources, *more], stops, *view)
    with pytest.raises(StoreError, match=rf"{tmp_path}: .*\b8 recordings"):
        Store(tmp_path).require(view, "the bundle x", "--bundle x")


def test_a_shard_that_cannot_be_read_just_now_is_not_made_again(tmp_path, sources, monkeypatch):
    filled = _build(tmp_path, sources)
    before = (tmp_path / filled.manifest.shards[0].file).read_bytes()

    def fails(self, *_args, **_options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.open", fails)
    with pytest.raises(StoreError, match="Input/output error"):
        fill._take_stock(tmp_path, filled.manifest)
    monkeypatch.undo()
    assert (tmp_path / filled.manifest.shards[0].file).read_bytes() == before


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"gone: no such folder\."):
        Store(tmp_path / "gone")
    with pytest.raises(StoreError, match=r"not a store"):
        Store(tmp_path)
