import json
import logging
import os
from pathlib import Path

import pandas as pd
import pytest

from stallscan import errors, files
from stallscan.calls import predict
from stallscan.errors import InputError
from stallscan.recordings import find, video
from stallscan.recordings.find import find_recordings, list_recordings
from tests import drawing

needs_posix = pytest.mark.skipif(os.name == "nt", reason="links and such names need a privilege")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    fill(root, "b.mp4", "a.tif", "sub/c.GIF", "sub/b.mp4", "notes.txt", ".x.mp4", ".h/d.mp4")
    return root


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(*paths: Path) -> list[str]:
    return [source.filename for source in list_recordings(paths)]


def test_a_folder_is_searched_in_the_order_of_names(folder: Path) -> None:
    found = list_recordings([folder])
    assert [source.filename for source in found] == ["a.tif", "b.mp4", "sub/b.mp4", "sub/c.GIF"]
    assert [source.path for source in found] == [folder / source.filename for source in found]


def test_an_empty_path_is_not_the_current_folder(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert find_recordings(["."]).sources
    with pytest.raises(InputError, match="empty"):
        find_recordings([""])


def test_files_and_folders_mix_in_the_order_given(folder: Path) -> None:
    found = list_recordings([folder / "sub" / "c.GIF", str(folder / "a.tif"), folder])
    # A file given twice counts once, under its first name.
    assert [source.filename for source in found] == ["c.GIF", "a.tif", "b.mp4", "sub/b.mp4"]


def test_two_of_one_name_are_called_by_their_whole_path(folder: Path) -> None:
    found = list_recordings([folder / "b.mp4", folder / "sub"])
    assert [source.filename for source in found] == [
        (folder / "b.mp4").as_posix(),
        (folder / "sub/b.mp4").as_posix(),
        "c.GIF",
    ]


def test_a_file_given_by_itself_is_taken_whatever_its_suffix(folder: Path) -> None:
    found = list_recordings([folder / "notes.txt"])
    assert [source.filename for source in found] == ["notes.txt"]


def test_relative_paths_are_found_from_anywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = list_recordings([".", "../data/sub"])
    assert [source.filename for source in found] == ["a.tif", "b.mp4", "sub/b.mp4", "sub/c.GIF"]
    assert all(source.path.is_absolute() and source.path.exists() for source in found)


def test_an_empty_folder_or_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path.name}: .*\.avi, .*\.tiff"):
        list_recordings([tmp_path])
    with pytest.raises(InputError, match=r"missing\.mp4: "):
        list_recordings([tmp_path, tmp_path / "missing.mp4"])


@needs_posix
def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    # Stores of large files (git-annex, download caches) keep the content under a hash.
    fill(tmp_path, "content/4f1d", "data/b.mp4")
    drawing.write(tmp_path / "a.mp4").rename(tmp_path / "content" / "4f1d")
    (tmp_path / "data" / "a.mp4").symlink_to("../content/4f1d")
    sources = list_recordings([tmp_path / "data"])
    assert [source.filename for source in sources] == ["a.mp4", "b.mp4"]
    assert len(video.read_recording(sources[0].path)) == 8


# Links


@needs_posix
def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path, "data/m1/a.mp4", "else/b.mp4", "else/deep/c.mp4")
    data = tmp_path / "data"
    (data / "again").symlink_to("m1")
    (data / "linked").symlink_to(tmp_path / "else")
    (data / "loop").symlink_to(".")
    (data / "m1" / "up").symlink_to(tmp_path)
    (tmp_path / "else" / "deep" / "round").symlink_to("..")
    found = find_recordings([data])
    # Recordings that can be reached without a link are named without it.
    assert [source.filename for source in found.sources] == [
        "m1/a.mp4",
        "linked/b.mp4",
        "linked/deep/c.mp4",
    ]
    assert all(source.path.exists() for source in found.sources)
    assert found.passed_over.names == {
        find.SAME: ["again"],
        find.LOOP: ["loop", "m1/up", "linked/deep/round"],
    }


@needs_posix
def test_a_file_under_two_names_counts_once_and_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    found = find_recordings([tmp_path])
    assert [source.filename for source in found.sources] == ["a.mp4"]
    assert found.passed_over.names == {find.SAME: ["b.mp4"]}


@needs_posix
def test_a_broken_link_is_a_recording_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("missing.mp4")
    (source,) = list_recordings([tmp_path])
    with pytest.raises(errors.UnreadableError, match=r"a\.mp4: .*link"):
        video.read_recording(source.path)


# Skipped files and folders


def test_skipped_files_are_counted_and_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(folder, "old.wmv", "x/1.txt", "x/2.txt", "x/noend", *(f"y/{n}.mpg" for n in range(5)))
    with caplog.at_level(logging.INFO, logger="stallscan"):
        found = find_recordings([folder])
    assert len(found.sources) == 4
    assert found.passed_over.counts == {
        ".wmv": 1,
        ".mpg": 5,
        ".txt": 3,
        find.HIDDEN: 2,
        find.NO_ENDING: 1,
    }
    (record,) = caplog.records
    logged = record.getMessage()
    assert " 12 " in logged
    assert ": 5 .mpg (y/0.mpg, y/1.mpg, y/2.mpg, ...), 1 .wmv (" in logged
    assert "3 .txt" in logged
    notes = found.passed_over.as_dict()
    assert notes[".mpg"] == {"count": 5, "names": [f"y/{n}.mpg" for n in range(5)]}


def test_endings_may_be_numbers(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", *(f"scan.{number}" for number in range(200)))
    passed_over = find_recordings([tmp_path]).passed_over
    assert passed_over.counts.total() == 200
    assert len(passed_over.as_dict()) <= 51


def test_nothing_is_logged_if_nothing_is_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="stallscan"):
        assert not find_recordings([folder / "sub", folder / "sub", folder / "b.mp4"]).passed_over
    assert not caplog.records


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything may be read by root"
)
def test_folders_that_may_not_be_read(folder: Path) -> None:
    (folder / "sub").chmod(0)
    try:
        found = find_recordings([folder])
        with pytest.raises(InputError, match=r"sub: .*permissions"):
            find_recordings([folder / "sub"])
    finally:
        (folder / "sub").chmod(0o755)
    assert [source.filename for source in found.sources] == ["a.tif", "b.mp4"]
    assert found.passed_over.names[find.UNREADABLE] == ["sub"]


def test_a_folder_that_fails_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def fail(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    found = find_recordings([folder])
    assert [source.filename for source in found.sources] == ["a.tif", "b.mp4"]
    assert found.passed_over.names[find.UNREADABLE] == ["sub"]
    with pytest.raises(InputError, match=r"sub: .*Permission denied"):
        find_recordings([folder / "sub"])


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("-", "standard input"),
        ("https://example.org/a.mp4", "network"),
        ("s3:/bucket/a.mp4", "network"),
        ("~/a.mp4", "quotes"),
        ("data/*.mp4", "pattern"),
        ("missing.mp4", "path"),
        ("x" * 300, "path"),
    ],
)
def test_a_path_that_cannot_be_opened_comes_with_a_hint(given: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        find_recordings([given])
    assert str(error.value).startswith(f"{given}: ")
    assert hint in str(error.value)


# Names


def latin1(name: str) -> str:
    """Return a name as Python decodes that of a file whose name is not UTF-8."""
    return os.fsdecode(name.encode("latin-1"))


@needs_posix
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (latin1("m\xfcs/m\xfcs1.mp4"), r"m\xfcs/m\xfcs1.mp4"),
        ("m\xfcs/日本🧠.mp4", "m\xfcs/日本🧠.mp4"),
        ("new\nline\r.mp4", r"new\nline\r.mp4"),
        ("a\u2028b\x85\x1b.mp4", r"a\u2028b\u0085\x1b.mp4"),
        ("win\\001.mp4", "win\\001.mp4"),
        (' a, "b" \xa0c:d%03d#?.mp4', ' a, "b" \xa0c:d%03d#?.mp4'),
        ("-x.mp4", "-x.mp4"),
    ],
)
def test_names_are_one_printable_line(tmp_path: Path, name: str, shown: str) -> None:
    fill(tmp_path, name)
    (source,) = list_recordings([tmp_path])
    assert source.filename == shown
    assert source.path == tmp_path / name
    assert source.path.exists()
    source.filename.encode("utf-8")
    assert len(source.filename.splitlines()) == 1


@needs_posix
def test_names_that_are_escaped_alike_stay_different(tmp_path: Path) -> None:
    fill(tmp_path, latin1("\xfc.mp4"), r"\xfc.mp4", "sub\n/a.mp4", r"sub\n/a.mp4")
    sources = list_recordings([tmp_path])
    assert len({source.filename for source in sources}) == 4
    assert len({source.path for source in sources}) == 4


def test_paths_in_notes_are_read_back_as_they_were(tmp_path: Path) -> None:
    paths = [latin1("m\xfc.mp4"), "日本.mp4"]
    files.write_json(tmp_path / "run.json", paths)
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert json.loads(text) == paths
    assert "日本" in text


@needs_posix
def test_any_name_has_its_row(tmp_path: Path, bundle_dir: Path) -> None:
    folder = tmp_path / latin1("mü")
    folder.mkdir()
    # More than the 100 frames of the bundle's training data: the remark names the file.
    drawing.write(folder / "a.mp4", count=101).rename(folder / latin1("é\n.mp4"))
    fill(folder, "b\n.mp4", "c.wmv")
    out = tmp_path / "out"
    for _ in range(2):  # the second run reads the existing rows
        predict.predict([folder], out, bundle_dir, processes=0, engine="torch")
    table = pd.read_csv(out / "predictions.csv")
    assert table["filename"].tolist() == [r"b\n.mp4", r"\xe9\n.mp4"]
    assert table["status"].tolist() == ["unreadable", "ok"]
    assert table["reason"].str.contains(r"m\xfc/", regex=False).all()
    notes = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert notes["paths"] == [str(folder)]
    assert notes["passed_over"] == {".wmv": {"count": 1, "names": ["c.wmv"]}}


def test_tables_of_another_simulated_corpus_are_refused(tmp_path: Path) -> None:
    for name, content in {
        "a": {"settings": {"seed": 0}},
        "b": {"settings": {"seed": 1}},
        "clips": {"settings": {"seed": 0}, "clip": {"size": 64}, "outline": {}},
        "broken": [],
    }.items():
        fill(tmp_path / name, "train/100000.mp4")
        (tmp_path / name / find.SIMULATION).write_text(json.dumps(content) if content else "{")
    labels = tmp_path / "a" / "train_labels.csv"
    recordings = tmp_path / "b" / "train"
    with pytest.raises(InputError, match=r"train_labels\.csv.*other simulated.*Give the table of"):
        find.refuse_other_simulation(labels, [recordings])
    with pytest.raises(InputError):
        find.refuse_other_simulation(labels, [recordings / "100000.mp4"])
    with pytest.raises(InputError, match=r"broken.*simulation\.json"):
        find.refuse_other_simulation(labels, [tmp_path / "broken"])
    # The same recordings, some of the recordings, and what is not in a corpus (any more).
    for paths in (
        [tmp_path / "a" / "train"],
        [tmp_path / "clips" / "store"],
        [recordings, tmp_path / "a"],
        [tmp_path / "moved"],
        [],
    ):
        find.refuse_other_simulation(labels, paths)
    find.refuse_other_simulation(tmp_path / "labels.csv", [recordings])
