"""Detection of changed files."""

import os

import pytest

from stallscan import stamps
from stallscan.stamps import Stamp


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(bytes(1000))
    return path


def _touch(path, ns):
    os.utime(path, ns=(ns, ns))


def test_another_size_is_another_file(path):
    before = Stamp.of(path).sealed(path)
    path.write_bytes(bytes(1001))
    _touch(path, before.mtime_ns)
    assert not before.is_of(path, Stamp.of(path))


def test_a_copy_with_another_time_is_the_same_file(path):
    before = Stamp.of(path).sealed(path)
    _touch(path, 1)
    assert before.is_of(path, Stamp.of(path))


def test_a_device_has_no_hash():
    """Reading one may never end."""
    assert Stamp.of(os.devnull).sealed(os.devnull).sha256 == ""


def test_another_file_of_the_same_size_and_time_is_found(path):
    before = Stamp.of(path).sealed(path)
    path.write_bytes(b"1" + bytes(999))
    _touch(path, before.mtime_ns)
    assert Stamp.of(path)[:2] == before[:2]
    assert not before.is_of(path, Stamp.of(path))


def test_a_file_as_it_was_is_not_read(path, monkeypatch):
    before = Stamp.of(path).sealed(path)
    monkeypatch.setattr(stamps.files, "sha256", None)
    assert before.is_of(path, Stamp.of(path))


def test_a_large_file_with_another_time_counts_as_another(path, monkeypatch):
    monkeypatch.setattr(stamps, "HASHED_BYTES", 10)
    before = Stamp.of(path).sealed(path)
    assert before.sha256 == ""
    assert before.is_of(path, Stamp.of(path))
    _touch(path, 1)
    assert not before.is_of(path, Stamp.of(path))


def test_a_file_that_changed_while_it_was_worked_on_has_no_hash(path):
    before = Stamp.of(path)
    path.write_bytes(b"1" + bytes(999))
    _touch(path, before.mtime_ns + 10**9)
    assert before.sealed(path).sha256 == ""


def test_what_is_not_there_has_no_stamp(tmp_path):
    assert Stamp.of(tmp_path / "none") is None
    assert Stamp.of("a\0b") is None
