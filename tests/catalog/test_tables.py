import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from stallscan.catalog import tables
from stallscan.errors import TableError
from tests.tables import LABELS, METADATA, TEST_METADATA

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def _save(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return _save


# Reading


def test_train_metadata_have_their_types(save: Save) -> None:
    table = tables.read_metadata(save(METADATA))
    assert tuple(table.columns) == tables.TRAIN_COLUMNS
    assert table["num_frames"].tolist() == [54, 48, 122]
    assert table["num_frames"].dtype == np.int64
    assert table["crowd_score"].tolist() == [0.0, 0.0227686, 1.0]
    assert table["tier1"].tolist() == [True, False, True]
    assert {table[column].dtype for column in ("tier1", "micro", "nano")} == {np.dtype(bool)}


def test_test_metadata_are_read(save: Save) -> None:
    table = tables.read_metadata(save(TEST_METADATA))
    assert table.to_dict("list") == {
        "filename": ["100032.mp4"],
        "url": ["s3://bucket/test/100032.mp4"],
        "num_frames": [37],
    }


def test_labels_keep_the_order_of_the_file(save: Save) -> None:
    table = tables.read_labels(save(LABELS))
    assert table["filename"].tolist() == ["100002.mp4", "100000.mp4", "100001.mp4"]
    assert table["stalled"].tolist() == [1, 0, 0]
    assert table["stalled"].dtype == np.int64


def test_labels_of_a_laboratory_may_have_other_columns(save: Save) -> None:
    table = tables.read_labels(save("scorer,filename,note,note,stalled\nX,a.tif,,NA,1\n"))
    assert table.to_dict("list") == {"filename": ["a.tif"], "stalled": [1]}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("\n100001.mp4", '\n"100001.mp4"'),
        lambda text: "\n".join(",".join(line.split(",")[::-1]) for line in text.split("\n")),
    ],
    ids=["crlf", "byte order mark", "no last line feed", "empty lines", "quotes", "column order"],
)
def test_other_ways_to_write_the_same_table(save: Save, change: Callable[[str], str]) -> None:
    expected = tables.read_metadata(save(METADATA))
    assert_frame_equal(tables.read_metadata(save(change(METADATA))), expected)


def test_words_that_pandas_would_take_for_missing_stay_words(save: Save) -> None:
    table = tables.read_metadata(save(METADATA.replace(",F,", ",NA,").replace("100000", "nan")))
    assert table["project_id"].tolist() == ["M", "NA", "NA"]
    assert table["filename"][0] == "nan.mp4"


# Wrong tables


def wrong_cell(column: str, text: str) -> str:
    lines = [line.split(",") for line in METADATA.splitlines()]
    lines[2][lines[0].index(column)] = text
    return "".join(",".join(cells) + "\n" for cells in lines)


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("num_frames", "0", "at least 1"),
        ("num_frames", "-3", "at least 1"),
        ("num_frames", "48.5", "at least 1"),
        ("num_frames", "", "at least 1"),
        ("num_frames", "9" * 20, "at least 1"),
        ("crowd_score", "1.01", "0 to 1"),
        ("crowd_score", "-0.1", "0 to 1"),
        ("crowd_score", "nan", "0 to 1"),
        ("crowd_score", "high", "0 to 1"),
        ("tier1", "yes", "True or False"),
        ("micro", "high", "True or False"),
        ("nano", "", "True or False"),
        ("project_id", "", "project"),
    ],
)
def test_a_wrong_cell_is_named(save: Save, column: str, text: str, expected: str) -> None:
    path = save(wrong_cell(column, text))
    place = re.escape(f"{path}: line 3 (100001.mp4): {column} ")
    cell = repr(text) if text else "empty"
    with pytest.raises(TableError, match=f"{place}.*{cell}.*{expected}"):
        tables.read_metadata(path)


@pytest.mark.parametrize("text", ["2", "none", "1.5", "stalling", "-1", "0;", "?", "01"])
def test_a_wrong_label_is_named(save: Save, text: str) -> None:
    path = save(LABELS.replace("100000.mp4,0", f"100000.mp4,{text}"))
    with pytest.raises(TableError, match=rf"line 3 \(100000.mp4\).*{re.escape(repr(text))}"):
        tables.read_labels(path)


@pytest.mark.parametrize(
    "words", ["1 0", "1.0 0.00", "TRUE False", "yes No", "Stalled flowing", "WAHR FALSCH"]
)
def test_labels_are_read_as_programs_and_people_write_them(save: Save, words: str) -> None:
    stalled, flowing = words.split()
    path = save(LABELS.replace(",1\n", f",\u00a0{stalled}\n").replace(",0\n", f", {flowing} \n"))
    assert tables.read_labels(path).equals(tables.read_labels(save(LABELS)))


def test_recordings_without_a_label_are_left_out_and_counted(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(LABELS.replace("100000.mp4,0", "100000.mp4,"))
    assert tables.read_labels(path)["filename"].tolist() == ["100002.mp4", "100001.mp4"]
    assert "1 of 3 recordings" in caplog.text
    path = save("filename,stalled\na,\nb, \n")
    with pytest.raises(TableError, match=f"{path}: .*column stalled"):
        tables.read_labels(path)


def test_a_recording_labelled_twice_alike_counts_once(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    path = save("filename,stalled\nm1/a.mp4,1\nb.mp4,0\n./m1\\a.mp4,TRUE\n")
    assert tables.read_labels(path).to_dict("list") == {
        "filename": ["m1/a.mp4", "b.mp4"],
        "stalled": [1, 0],
    }
    assert f"{path}: 1 rows" in caplog.text
    assert "./m1\\a.mp4" in caplog.text
    path = save("filename,stalled\nm1/a.mp4,1\nb.mp4,0\nm1\\a.mp4,0\n")
    with pytest.raises(TableError, match=r"line 4 .*line 2\b.* another label"):
        tables.read_labels(path)


def test_an_empty_filename_is_named(save: Save) -> None:
    path = save(LABELS.replace("100000.mp4", ""))
    with pytest.raises(TableError, match=r"line 3 \(no filename\): filename is empty"):
        tables.read_labels(path)


def test_a_duplicate_is_named_with_its_first_line(save: Save) -> None:
    path = save(LABELS.replace("100001.mp4", "100002.mp4"))
    with pytest.raises(TableError, match=r"line 4 \(100002.mp4\): .*line 2\b"):
        tables.read_labels(path)


@pytest.mark.parametrize(
    ("row", "cells"),
    [("100000.mp4", 1), ("100000.mp4,0,0", 3)],
)
def test_a_row_with_too_few_or_many_cells_is_named(save: Save, row: str, cells: int) -> None:
    with pytest.raises(TableError, match=rf"line 3 \(100000.mp4\): has {cells} .*\b2\b"):
        tables.read_labels(save(LABELS.replace("100000.mp4,0", row)))


def test_if_every_row_is_ragged_each_is_named(save: Save) -> None:
    with pytest.raises(TableError, match=r"line 2 \(a\): .*\b3\b.*; line 3 \(b\): .*\b3\b"):
        tables.read_labels(save("filename,stalled\na,0,0\nb,1,1\n"))


def test_lines_are_those_of_the_file_even_after_empty_and_broken_ones(save: Save) -> None:
    path = save('filename,note,stalled\na,"two\nlines",0\n\nb,,7\n')
    with pytest.raises(TableError, match=r"line 5 \(b\): stalled .*'7'"):
        tables.read_labels(path)


def test_all_wrong_rows_are_named_in_the_order_of_the_file(save: Save) -> None:
    path = save("filename,stalled\na,2\na,0\n,1\n")
    with pytest.raises(TableError) as caught:
        tables.read_labels(path)
    problems = re.findall(r"line (\d) \((.*?)\): (.*?)(?=; line \d \(|$)", str(caught.value))
    assert [(line, name) for line, name, _ in problems] == [
        *(("2", "a"), ("3", "a"), ("4", "no filename")),
    ]
    for (_, _, problem), words in zip(problems, ["'2'", "line 2", "empty"], strict=True):
        assert words in problem


def test_beyond_the_first_wrong_rows_the_others_are_counted(save: Save) -> None:
    path = save("filename,stalled\n" + "".join(f"{row},2\n" for row in range(1210)))
    with pytest.raises(TableError) as caught:
        tables.read_labels(path)
    assert str(caught.value).count("line ") == 3
    assert str(caught.value).endswith(" and 1,207 more")


def test_a_long_wrong_cell_is_shortened(save: Save) -> None:
    with pytest.raises(TableError) as caught:
        tables.read_labels(save(f"filename,stalled\na,{'x' * 10000}\n"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("filename,answer", "column stalled .* semicolons: filename, stalled$"),
        ("filename,stalled2", r"column stalled .*'stalled2'"),
        ("filename,flowing", "'flowing' .*reverse.* column stalled"),
        ("filename,label,state", "'label' and 'state' .*right one stalled"),
        ("file,video,stalled", "'file' and 'video' .*right one filename"),
        ("filename;stalled,note", "other separators"),
        ("filename|stalled", "column filename .* semicolons: filename, stalled$"),
        ("filename,stalled,Stalled", "column stalled .*twice"),
    ],
)
def test_wrong_columns_of_labels(save: Save, header: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        tables.read_labels(save(f"{header}\na,0,0\n"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",crowd_score", ",crowdscore", r"column crowd_score .*'crowdscore'\?"),
        (",crowd_score", ",crowdscore", r"'crowdscore' .*did you mean crowd_score\?"),
        (",nano", ",nano,mouse", "column 'mouse' .*filename, url, project_id,"),
        (",tier1", "", "column tier1 .* semicolons: filename, url,"),
    ],
)
def test_wrong_columns_of_metadata(save: Save, old: str, new: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        tables.read_metadata(save(METADATA.replace(old, new)))


def test_labels_are_no_metadata(save: Save) -> None:
    with pytest.raises(TableError, match=r"column 'stalled' is unknown.*: filename"):
        tables.read_metadata(save(LABELS))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"\n\n", "empty"),
        ("a.csv", b"filename,stalled\n", "no rows"),
        ("a.csv", b"filename,stalled\nm\x81ller.tif,0\n", "line 2 .*UTF-8"),
        ("a.csv", b'filename,stalled\na,"0\nb,1\n', "CSV .*line 2"),
        ("a.csv.gz", gzip.compress(LABELS.encode(), mtime=0)[:-12], "gzip"),
        ("a.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "gzip"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError, match=f"{re.escape(str(path))}: .*{words}"):
        tables.read_labels(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"labels\.csv: no such file"):
        tables.read_labels(tmp_path / "labels.csv")
    with pytest.raises(TableError, match=f"{tmp_path}: is a folder"):
        tables.read_labels(tmp_path)


# Writing


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_written_tables_have_the_exact_form(tmp_path: Path, save: Save, name: str) -> None:
    path = tmp_path / "out" / name
    tables.write_table(tables.read_metadata(save(METADATA)), path)
    first = path.read_bytes()
    content = gzip.decompress(first) if name.endswith("gz") else first
    assert content == METADATA.encode()
    tables.write_table(tables.read_metadata(path), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["test_metadata", "submission_format"])
def test_real_tables_are_written_as_they_were(real_dir: Path, tmp_path: Path, name: str) -> None:
    path = real_dir / "metadata" / f"{name}.csv.gz"
    read = tables.read_metadata if name == "test_metadata" else tables.read_labels
    tables.write_table(read(path), tmp_path / f"{name}.csv")
    assert (tmp_path / f"{name}.csv").read_bytes() == gzip.decompress(path.read_bytes())
