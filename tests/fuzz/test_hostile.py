"""Files made to take all memory or time, or to break a reader: each was, or could have been, fatal.

Most of them are a few bytes.
"""

import contextlib
import gzip
import json
import os
import resource
import shutil
import sqlite3
import struct
import sys
import time

import numpy as np
import pytest
import tifffile

from stallscan import documents, files, runs, workers
from stallscan.bundle import disk
from stallscan.calls import predictions, written
from stallscan.catalog import tables, text
from stallscan.clips import prepare, store
from stallscan.engines import exports
from stallscan.errors import (
    LONGEST_MESSAGE,
    BundleError,
    InputError,
    SettingsError,
    StoreError,
    TableError,
    UnreadableError,
)
from stallscan.recipes.recipe import read_recipe
from stallscan.recordings import limits, planes, stack, video
from stallscan.recordings.find import Source
from stallscan.recordings.limits import Limits
from stallscan.review.answers import Answers
from stallscan.review.ledger import Ledger
from stallscan.runs import ANSWERS_NAME
from stallscan.stamps import Stamp
from tests import drawing, tasks
from tests.fuzz import readers, seeds

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files there")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
DEEP = {"lists": b"[" * 100_000, "mappings": b'{"a":' * 100_000, "whole": b"[" * 200 + b"]" * 200}


# Documents


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("run.json", lambda path: predictions.read_run(path), InputError),
        ("run.json", lambda path: runs.read_note(path, "a run"), InputError),
        ("manifest.json", lambda path: store.Store(path.parent), StoreError),
        ("bundle.json", lambda path: disk.load_any(path.parent), BundleError),
    ],
)
def test_deep_json_is_refused(tmp_path, name, read, error, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name):
        read(tmp_path / name)


def test_a_deep_record_of_exports_is_refused(tmp_path, bundle_dir):
    shutil.copytree(bundle_dir, tmp_path / "b")
    (tmp_path / "b" / disk.EXPORTS).mkdir(exist_ok=True)
    (tmp_path / "b" / disk.EXPORTS / disk.EXPORTS_NAME).write_bytes(DEEP["lists"])
    with pytest.raises(BundleError, match=disk.EXPORTS_NAME):
        exports.read(disk.load(tmp_path / "b"))


# A thousand million texts each, from some hundred characters.
_NINE = [f"[{', '.join([f'*l{n - 1}' if n else 'lol'] * 9)}]" for n in range(10)]
_MERGED = [f"{{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" if n else "{a: 1}" for n in range(10)]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(f"l{n}: &l{n} {value}" for n, value in enumerate(_NINE)),
        "\n".join(f"l{n}: &l{n} {value}" for n, value in enumerate(_MERGED)),
        "name: &a [*a]",
        "name: " + "[" * 100_000,
        "- " * 10_000,
        "name: 2001-99-99",
        "name: !!timestamp x",
        "name: !!bool x",
        "name: !!int ''",
        "name: !!float 1:1:99999999999999999999999999999999.x",
        "seed: " + ":".join(["59"] * 100_000),
        "seed: " + "1" * 5000,
        "name: \ud800",
    ],
)
def test_yaml_that_takes_all_memory_or_breaks_the_parser_is_refused(tmp_path, content):
    (tmp_path / "r.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    for read in (read_recipe, lambda path: runs.read_note(path, "a run")):
        with pytest.raises(InputError, match=r"r\.yaml"):
            read(tmp_path / "r.yaml")


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_nothing_behind_a_yaml_list_that_is_too_deep_is_looked_at(opening):
    with pytest.raises(ValueError, match="more than 100 levels"):
        documents.parse_yaml(opening * 200 + "@ is no YAML")
    assert documents.parse_yaml("[" * 90 + "]" * 90)


def test_references_and_merging_still_work():
    parsed = documents.parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert parsed["b"] == {"x": 1, "y": 2}
    assert parsed["c"] == [{"x": 1}, {"x": 1}]


def test_a_change_of_a_recipe_may_be_any_text(tmp_path):
    with pytest.raises(SettingsError, match="seed"):
        read_recipe("default", ["seed=2001-99-99"])


def test_a_document_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "run.json"
    path.touch()
    os.truncate(path, documents.JSON_BYTES + 1)
    with pytest.raises(InputError, match=r"run\.json.*32 MiB"):
        predictions.read_run(path)


def test_messages_have_an_end(tmp_path):
    (tmp_path / "r.yaml").write_text(json.dumps({f"{n}" * 500: ["x" * 10_000] for n in range(99)}))
    with pytest.raises(SettingsError) as caught:
        read_recipe(tmp_path / "r.yaml")
    assert len(str(caught.value)) < LONGEST_MESSAGE + 100


@needs_pipes
def test_nobody_waits_for_a_pipe(tmp_path):
    for name in ("run.json", "predictions.csv"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="regular"):
        predictions.read_run(tmp_path / "predictions.csv")
    with pytest.raises(InputError, match="regular"):
        written.read_table(tmp_path / "predictions.csv", ["filename"])
    with pytest.raises(OSError, match="regular"):
        files.sha256(tmp_path / "run.json")
    stamp = Stamp.of(tmp_path / "run.json")
    assert stamp.sealed(tmp_path / "run.json") == stamp


# Tables


def test_a_table_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TABLE_BYTES", 10_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"filename,stalled\n" + bytes(10**6)))
    with pytest.raises(TableError, match=r"a\.csv\.gz"):
        tables.read_labels(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv").write_bytes(b"filename,stalled\n" + b"a.mp4,1\n" * 2000)
    with pytest.raises(TableError, match=r"a\.csv: has more"):
        tables.read_labels(tmp_path / "a.csv")


def test_a_table_with_too_many_cells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MOST_CELLS", 100)
    (tmp_path / "a.csv").write_bytes(b"filename,stalled\n" + b"," * 101)
    with pytest.raises(TableError, match="100 cells"):
        tables.read_labels(tmp_path / "a.csv")


def test_a_field_without_end_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"filename,stalled\n" + b"x" * 200_000 + b",1\n")
    with pytest.raises(TableError, match="line 2"):
        tables.read_labels(tmp_path / "a.csv")


# Stores


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard")
    return folder, next(seeds.shard(folder))


def _row(**changed):
    def change(header, metadata):
        metadata["recordings"][0] |= changed

    return change


def _tensor(**changed):
    def change(header, metadata):
        header["0.mp4"] |= changed

    return change


def _nothing(header, metadata):
    header.clear()


def _other_metadata(header, metadata):
    metadata.clear()


@pytest.mark.parametrize(
    "change",
    [
        *(_nothing, _other_metadata),
        *(_row(filename=None), _row(filename="gone"), _row(status=1), _row(more=1), _row(made="x")),
        *(_row(box="abcd"), _row(box=[1, 2]), _row(traits=["a"] * 13), _row(frames="6")),
        *(_row(sha256="xyz"), _row(stamp=[1, 2, "3"]), _row(box=3)),
        _tensor(shape=[2**40, 16, 16, 2]),
        _tensor(shape=[]),
        _tensor(shape=[-6, 16, 16, 2]),
        _tensor(shape=[float("inf"), 16, 16, 2]),
        _tensor(shape=[6.0, 16, 16, 2]),
        _tensor(data_offsets=[-3072, 0]),
        _tensor(data_offsets=[0, "a"]),
        _tensor(data_offsets=None),
    ],
)
def test_a_shard_whose_header_is_not_ours_is_refused(shard, change):
    """Its hash is right: whoever wrote the shard wrote the manifest, too."""
    folder, data = shard
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = json.loads(header["__metadata__"]["stallscan"])
    change(header, metadata)
    if header:
        header["__metadata__"]["stallscan"] = json.dumps(metadata)
    new = json.dumps(header).encode()
    with pytest.raises(StoreError):
        _open_with(folder, len(new).to_bytes(8, "little") + new + data[8 + size :])


@pytest.mark.parametrize("header", [b"", b"null", b"[" * 100_000, b"\xff", b'{"__metadata__": 1}'])
def test_a_shard_without_a_header_is_refused(shard, header):
    with pytest.raises(StoreError):
        _open_with(shard[0], len(header).to_bytes(8, "little") + header)


def test_a_shard_does_not_say_how_much_memory_to_take(shard):
    with pytest.raises(StoreError):
        _open_with(shard[0], (2**62).to_bytes(8, "little") + b"{}")


def _open_with(folder, data):
    path = next((folder / "store").glob("shard-*"))
    path.write_bytes(data)
    manifest = folder / "store" / store.MANIFEST_NAME
    content = json.loads(manifest.read_text())
    length = min(int.from_bytes(data[:8], "little"), len(data))
    content["shards"][0]["sha256"] = files.sha256_of(data[: 8 + length])
    manifest.write_text(json.dumps(content))
    for prepared in store.Store(folder / "store").stream():
        assert prepared.clip is None or prepared.clip.pixels.size


@needs_pipes
def test_a_shard_is_not_waited_for(tmp_path):
    next(seeds.store(tmp_path))
    path = next((tmp_path / "store").glob("shard-*"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="regular"):
        store.Store(tmp_path / "store")


# Answers


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
        "DROP VIEW standing; CREATE VIEW standing AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n) SELECT i AS id, '' AS filename, '' AS reviewer, '' AS answer, "
        "'' AS given_at, 0 AS seconds, 0 AS is_check FROM n",
        "ALTER TABLE answers ADD COLUMN more GENERATED ALWAYS AS (zeroblob(1000000000))",
    ],
)
def test_answers_with_views_and_triggers_of_others_are_refused(tmp_path, statement):
    _change(tmp_path, statement)
    with pytest.raises(InputError, match=ANSWERS_NAME):
        Answers(tmp_path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE answers SET filename = x'00ff'",
        "UPDATE answers SET answer = 'perhaps'",
        "UPDATE answers SET seconds = 'long'",
        "PRAGMA foreign_keys = OFF; UPDATE answers SET takes_back = 70 + id WHERE takes_back > 0",
        "UPDATE answers SET answer = 'flowing' WHERE id = 2",
        "UPDATE answers SET takes_back = NULL",
        "PRAGMA foreign_keys = OFF; DELETE FROM answers WHERE id = 1",
    ],
)
def test_answers_that_make_no_sense_are_refused(tmp_path, statement):
    _change(tmp_path, statement)
    with pytest.raises(InputError, match=ANSWERS_NAME):
        Ledger(Answers(tmp_path)).update()


def test_answers_with_a_damaged_index_are_refused(tmp_path):
    """Otherwise the answers that it misses would not count."""
    path = _change(tmp_path, "PRAGMA journal_mode = DELETE")
    content = path.read_bytes()
    # The last one of the names in the pages that follow is in an index.
    place = content.rindex(b"a.mp4one")
    path.write_bytes(content[:place] + b"b" + content[place + 1 :])
    with pytest.raises(InputError, match=ANSWERS_NAME):
        Answers(tmp_path)


def _change(folder, statement):
    answers = Answers(folder)
    for number in range(3):
        answers.give(f"t{number}", "a.mp4", "one", "stalled")
        answers.undo(f"u{number}", "one")
    with sqlite3.connect(answers.path) as database:
        database.executescript(statement)
    database.close()
    return answers.path


# Recordings


def _declaring(data, name, *numbers, at):
    changed = bytearray(data)
    struct.pack_into(f">{len(numbers)}I", changed, changed.index(name) + at, *numbers)
    return bytes(changed)


def _with_long_size(data, name, *numbers):
    """Give a box a length of 64 bits, by which what follows is 8 bytes later."""
    return _declaring(_declaring(data, name, 1, at=-4), name, 0, 40, *numbers, at=4)


@pytest.mark.parametrize("name", ["stsz", "trun", "long stsz", "long trun", "cmov"])
def test_a_video_that_declares_a_thousand_million_frames_is_refused(tmp_path, name):
    """FFmpeg would take 35 GB for them."""
    whole, _, fragments, *_ = seeds.mp4(tmp_path)
    path = tmp_path / "a.mp4"
    path.write_bytes(
        {
            "stsz": _declaring(whole, b"stsz", 1, 10**9, at=8),
            "trun": _declaring(fragments, b"trun", 0, 10**9, at=4),
            "long stsz": _with_long_size(whole, b"stsz", 0, 1, 10**9),
            "long trun": _with_long_size(fragments, b"trun", 0, 10**9),
            "cmov": whole.replace(b"udta", b"cmov"),
        }[name]
    )
    with pytest.raises(UnreadableError, match=r"a\.mp4: .*Export"):
        video.read_recording(path)


def test_zipped_pages_do_not_expand_without_end(tmp_path, monkeypatch):
    """With tifffile's own decoder, which has no limit."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((6, 2000, 1000), np.uint8), compression="zlib", rowsperstrip=2000
    )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            page.tags["ImageLength"].overwrite(20)
            page.tags["ImageWidth"].overwrite(20)
    with pytest.raises(UnreadableError, match="memory"):
        stack.read_tiff(path, 10**9, Limits(page_bytes=10**6))


def test_decoding_takes_no_longer_than_stated(tmp_path, monkeypatch):
    check = Limits(seconds=1e-3).clock(tmp_path / "a.mp4")
    time.sleep(0.01)
    with pytest.raises(UnreadableError, match="Split"):
        check()


@only_linux
def test_a_process_gets_no_more_memory_than_stated():
    sizes = [10 * 2**20, 400 * 2**20, 10 * 2**20]
    taken = workers.in_order(tasks.allocate, sizes, 1, memory_bytes=200 * 2**20)
    assert list(taken) == [True, False, True]


@only_linux
def test_a_recording_that_takes_too_much_memory_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "MEMORY_BYTES", 60 * 2**20)
    np.save(tmp_path / "large.npy", np.zeros((8, 2000, 2000, 3), np.uint8))
    sources = [
        Source("large.npy", tmp_path / "large.npy"),
        Source("a.mp4", drawing.write(tmp_path / "a.mp4", count=8)),
    ]
    with prepare.keep([readers.VIEW], 1) as many:
        for every in (prepare.many(sources, [readers.VIEW], processes=1), many(sources)):
            large, small = every
            assert large.status == "unreadable"
            assert "memory" in large.reason
            assert small.status == "ok"


def test_a_lack_of_memory_in_opencv_is_one_too(tmp_path):
    import cv2

    def fail(code):
        error = cv2.error("no")
        error.code = code
        raise error

    with pytest.raises(UnreadableError, match="memory"), limits.within_memory(tmp_path):
        fail(-4)
    with pytest.raises(cv2.error), limits.within_memory(tmp_path):
        fail(-215)


def test_a_size_that_ffmpeg_cannot_allocate_is_an_error_of_the_file(tmp_path):
    """Not a MemoryError: the header is wrong, and there is memory."""
    path = tmp_path / "a.mp4"
    path.write_bytes(_declaring(next(seeds.mp4(tmp_path)), b"stts", 2**31, at=8))
    with pytest.raises(UnreadableError, match=r"a\.mp4"):
        video.read_recording(path)


@pytest.mark.parametrize("shape", [(8, 64, 1, 3), (8, 1, 64, 3), (8, 1, 1, 3), (8, 2, 700, 3)])
def test_frames_that_are_a_pixel_wide_are_refused(tmp_path, shape):
    frames = np.zeros(shape, np.uint8)
    frames[3, -1:] = drawing.ORANGE
    np.save(tmp_path / "a.npy", frames)
    prepared = prepare.one(Source("a.npy", tmp_path / "a.npy"), [readers.VIEW])
    assert prepared.status == "no_outline"


def test_a_tiff_that_declares_more_samples_than_it_has_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    frames = np.full((3, 40, 50, 4), 255, np.uint8)
    tifffile.imwrite(path, frames, photometric="rgb", extrasamples=["assocalpha"])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            page.tags["SamplesPerPixel"].overwrite(3)
    with pytest.raises(UnreadableError, match="more values per pixel than it has"):
        video.read_recording(path)


def test_a_part_of_a_tiff_page_cannot_be_larger_than_the_file(tmp_path):
    """tifffile would ask for as much memory."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((5, 40, 50), 90, np.uint8), bigtiff=True, compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            page.tags["StripByteCounts"].overwrite(2**60, dtype="Q")
    with pytest.raises(UnreadableError, match="no frame can be decoded"):
        video.read_recording(path)


def test_a_tiff_header_that_asks_for_too_much_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((5, 40, 50), 90, np.uint8))

    def open_file(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(tifffile, "TiffFile", open_file)
    with pytest.raises(UnreadableError, match="asks for more memory"):
        video.read_recording(path)
    with pytest.raises(UnreadableError, match="asks for more memory"), planes.open_tiff(path):
        pass


# Tags of a TIFF file of one page, with the values that they get in place of their own.
DAMAGED_TAGS = {
    "no palette": {"PhotometricInterpretation": (3, "H")},
    "short palette": {"PhotometricInterpretation": (3, "H"), "Software": ((1, 2, 3), "H", 320)},
    "values before the file": {"StripOffsets": (-400, "i")},
    "a place that is a fraction": {"StripOffsets": (400.0, "f")},
    "a negative number of samples": {"SamplesPerPixel": (-1, "b")},
    "a width that is text": {"ImageLength": (2**32 - 1, "I"), "ImageWidth": (b"@", "s")},
    "a depth that is a list": {"ImageLength": (2**27, "I"), "Software": ((1,) * 4, "H", 32997)},
}


def _damage(path, tags):
    """Write a file of five frames behind a single header, and overwrite tags of it."""
    tifffile.imwrite(path, np.full((5, 40, 50), 90, np.uint8), truncate=True, resolution=(1, 1))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name, (value, kind, *code) in tags.items():
            tag = tiff.pages[0].tags[name]
            tag.overwrite(value, dtype=kind)
            if code:  # becomes another tag
                tiff.filehandle.seek(tag.offset)
                tiff.filehandle.write(struct.pack("<H", *code))


@only_linux
@pytest.mark.parametrize("tags", DAMAGED_TAGS.values(), ids=DAMAGED_TAGS)
def test_a_tiff_whose_header_makes_no_sense_is_refused_at_once(tmp_path, tags):
    path = tmp_path / "a.tif"
    _damage(path, tags)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableError, match=r"no frame can be decoded|how large it is"):
        video.read_recording(path)
    with contextlib.suppress(UnreadableError), planes.open_tiff(path) as opened:  # a raw stack
        assert opened.read({axis: 0 for axis, _ in opened.dimensions}) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
