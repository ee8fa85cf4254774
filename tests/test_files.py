"""Output files: written whole or not at all, and clear messages for file errors."""

import errno
import os
import time

import pytest

from stallscan import files
from stallscan.errors import InputError


def test_writers_of_one_file_do_not_share_a_temporary_name(tmp_path):
    path = tmp_path / "out.csv"
    with files.atomic_path(path) as one, files.atomic_path(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert [left.name for left in tmp_path.iterdir()] == ["out.csv"]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".csv")
    files.write_text(path, "a\n")
    assert path.read_text() == "a\n"


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    names = [f".0123456{digit}-99.partial.csv" for digit in range(2)] + [".mine.partial.csv"]
    for name in names:
        (tmp_path / name).touch()
    old = time.time() - 2 * files.LEFTOVER_S
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (old, old))
    files.write_text(tmp_path / "out.csv", "")
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", *names[1:]}


def _write_half(path, code):
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "full"), (errno.EROFS, "-o"), (errno.EIO, "-o")],
)
def test_a_disk_that_fails_is_one_sentence_and_the_old_file_stays(tmp_path, code, words):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(InputError, match=words) as raised:
        _write_half(path, code)
    assert str(path) in str(raised.value)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("folder", "file/out.csv", "x" * 300, "file/a/b/out.csv"):
        with pytest.raises(InputError, match="-o") as raised:
            files.write_text(tmp_path / path, "text")
        assert str(tmp_path) in str(raised.value)
    for path in ("file", "file/out", "x" * 300):
        with pytest.raises(InputError, match="-o"):
            files.make_folder(tmp_path / path)


def test_a_device_is_not_replaced():
    with pytest.raises(InputError, match=r"/dev/null.* -o"):
        files.write_text("/dev/null", "text")


def test_only_a_file_with_the_mark_is_replaced(tmp_path):
    path = tmp_path / "page.html"
    files.refuse_foreign(path, ["<title>ours"], "ours")
    path.touch()
    files.refuse_foreign(path, ["<title>ours"], "ours")
    path.write_text("<html><title>ours: 3</title>")
    files.refuse_foreign(path, ["<title>ours"], "ours")
    path.write_bytes(b"\xff\xfe a table of somebody's")
    with pytest.raises(InputError, match=r"page\.html.* -o"):
        files.refuse_foreign(path, ["<title>ours"], "ours")
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"table\.csv\.gz"):
        files.refuse_foreign(packed, ["filename,stalled\n"], "ours")


def test_a_name_that_is_not_utf_8_comes_back_from_json(tmp_path):
    import json

    name = os.fsdecode(b"m\xfcs.mp4")
    files.write_json(tmp_path / "run.json", {"path": name})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"path": name}
