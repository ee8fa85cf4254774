"""The text of tables, as spreadsheets, editors and programs leave it."""

import gzip
from pathlib import Path

import pytest

from stallscan.catalog import text
from stallscan.errors import TableError

PLAIN = "filename,mouse,note\nm1/a.mp4,m1,x\nm1/b.mp4,m1,\nm2/c.mp4,m2,y\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path):
    """Return each column's cells; that nothing was refused is part of it."""
    table = text.read(path)
    assert table.wrong == []
    return {name: table.column(name) for name in table.header}


def swapped(separator):
    return PLAIN.replace(",", separator)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        swapped(";"),
        swapped("\t"),
        swapped(";") + "\n;;\n",
        "sep=;\r\n" + swapped(";").replace("\n", "\r\n"),
        '"sep=,"\n' + PLAIN,
        "SEP=\t\n" + swapped("\t"),
        gzip.compress(PLAIN.encode(), mtime=0),
        gzip.compress(swapped(";").encode("utf-16"), mtime=0),
        "\n\n" + PLAIN.replace("\n", "\n\n") + " , ,\u00a0\n,,\n",
        PLAIN.replace("\n", ",,\n"),
        PLAIN.replace("note\n", "note,,\n"),
        PLAIN.replace("x\n", "x,, \n"),
        "".join(",".join(f'"{cell}"' for cell in row.split(",")) + "\n" for row in PLAIN.split()),
        PLAIN.replace("filename", " FileName\u00a0").replace("m1,", "\u200bm1\u3000, "),
        PLAIN.replace("mouse", "Mouse").replace("m2/c.mp4", "\tm2/c.mp4 "),
        "\n".join(f"{number or ''},{row}" for number, row in enumerate(PLAIN.splitlines())),
    ],
)
def test_one_table_in_many_forms(path, content):
    assert cells(write(path, content)) == {
        "filename": ["m1/a.mp4", "m1/b.mp4", "m2/c.mp4"],
        "mouse": ["m1", "m1", "m2"],
        "note": ["x", "", "y"],
    }


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (PLAIN.replace("m1,x", "m1,x,look"), (2, "m1/a.mp4", "look")),
        (PLAIN.replace("note\n", "note,\n").replace("x\n", "x,look\n"), (2, "m1/a.mp4", "look")),
        (PLAIN.replace("m2,y", "m2"), (4, "m2/c.mp4", "2 cells")),
        (PLAIN.replace("mouse,", ",").replace("m2,y", "m2,"), (2, "m1/a.mp4", "'m1'")),
        # As R writes it without a name for its row names.
        ("filename,mouse,note\n1,m1/a.mp4,m1,x\n", (2, "1", "'x'")),
        ('filename,note\na,"two\r\nlines"\r\nb\n', (4, "b", "1 cells")),
    ],
)
def test_cells_that_belong_to_no_column_are_named(path, content, named):
    line, filename, what = named
    wrong = text.read(write(path, content)).wrong[0]
    assert (wrong.line, wrong.filename) == (line, filename)
    assert what in str(wrong)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + bytes(range(256)),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
        PLAIN.encode("utf-32"),
        PLAIN.encode("utf-16")[:-1],
        PLAIN.encode() + bytes(4096),
        b"",
        b"\n \n,,\n",
        gzip.compress(PLAIN.encode(), mtime=0)[:-9],
        PLAIN.replace("m1/a", "mäuse/a").encode("mac-roman"),
        PLAIN.replace("m1/a", "mäuse/a").encode("cp850"),
        PLAIN.replace("m1/a", "マウス/a").encode("shift-jis"),
        PLAIN.replace("m1,x", "mä1,x").encode() + "d,mä2,\n".encode("latin-1"),
        b"filename,mouse\na,\x81\n",
        b'filename,mouse\n"a,m1\nb,m2\n',
        b'filename,mouse\n"a"b,m1\n',
        b'filename,mouse,note\na.mp4,m1,"see\nb.mp4,m1,\nc.mp4,m2,not sure"\n',
    ],
)
def test_what_is_no_table_is_refused(path, content):
    with pytest.raises(TableError, match=r"table\.csv: "):
        text.read(write(path, content))


def test_letters_of_windows_are_read_with_a_warning(path, caplog):
    written = PLAIN.replace("m1,", "Mäuse,").replace("m1/", "Mäuse/").encode("cp1252")
    assert cells(write(path, written))["mouse"] == ["Mäuse", "Mäuse", "m2"]
    assert cells(path)["filename"][0] == "Mäuse/a.mp4"
    assert "not UTF-8" in caplog.text


def test_a_separator_inside_cells_is_none(path):
    content = "filename;a,b\nx;1,5\n"
    assert cells(write(path, content)) == {"filename": ["x"], "a,b": ["1,5"]}
    # Which separates is not to be told from the header: no row is split at a guess.
    assert "filename" not in text.read(write(path, "tag;a,b\nx;1,5\n")).header


@pytest.mark.parametrize("separator", [";", "\t"])
def test_rows_with_another_separator_than_the_header_are_named(path, separator):
    header, *rows = PLAIN.splitlines()
    rows[1] = rows[1].replace(",", separator)
    wrong = text.read(write(path, "\n".join([header, *rows]))).wrong
    assert [row.line for row in wrong] == [3]
    assert text.shown_separator(separator) in str(wrong[0])
    assert "one separator" in str(wrong[0])


def test_a_table_without_its_last_newline_is_torn(path):
    table = text.read(write(path, swapped(";")[:-1]))
    assert table.separator == ";"
    assert table.is_torn


def test_a_note_may_have_several_lines(path):
    content = 'filename,note\na.mp4,"one, two\nthree, four"\nb.mp4,\n'
    assert cells(write(path, content))["note"] == ["one, two\nthree, four", ""]


def test_rows_of_invisible_characters_are_empty(path):
    write(path, "\ufeff\u200b\n\u200b,\nfilename,stalled\na.mp4,1\n".encode("utf-16"))
    assert text.read(path).rows == [("a.mp4", "1")]
    with pytest.raises(TableError, match="empty"):
        text.read(write(path, b"\xff\xfe" * 20))
