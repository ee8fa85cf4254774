"""One table of labels with every trifle that people and programs add to it, alone and together.

Each is either read as it was meant, or refused: none is ever read as something else.
"""

import csv
import io
import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stallscan.catalog import label_words, names, tables, text
from stallscan.errors import TableError

# Recordings as stallscan names them, and their labels; None without one.
MEANT = {
    "m1/Vessel 01.mp4": 1,
    "m1/Vessel 02.mp4": 0,
    "m2/vessel-03.mp4": 0,
    "m2/vessel-04.mp4": None,
    "m2/vessel-05.mp4": 1,
}

Rows = list[list[str]]

# Encodings, separators and other properties of the file as a whole.
FILES: dict[str, dict[str, object]] = {
    "plain": {},
    "semicolon": {"separator": ";"},
    "tab": {"separator": "\t"},
    "declared": {"separator": ";", "first": "sep=;"},
    "bom": {"encoding": "utf-8-sig"},
    "utf-16": {"encoding": "utf-16"},
    "utf-16 without a mark": {"encoding": "utf-16-le"},
    "latin-1": {"encoding": "latin-1", "umlaut": True},
    "crlf": {"end": "\r\n"},
    "old Mac": {"end": "\r"},
    "quotes": {"quoting": csv.QUOTE_ALL},
}


def words(stalled: str, flowing: str, empty: str = "") -> Callable[[Rows], Rows]:
    written = {"1": stalled, "0": flowing, "": empty}
    return lambda rows: [rows[0], *([name, written[label]] for name, label in rows[1:])]


def header(name: str, label: str) -> Callable[[Rows], Rows]:
    return lambda rows: [[name, label], *rows[1:]]


def renamed(change: Callable[[str], str]) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0], *([change(name), label] for name, label in rows[1:])]


LABELS = {
    "0 and 1": words("1", "0"),
    "decimals": words("1.0", "0.0", "nan"),
    "spreadsheet": words("TRUE", "FALSE"),
    "German spreadsheet": words("WAHR", "FALSCH"),
    "French spreadsheet": words("VRAI", "FAUX"),
    "Spanish spreadsheet": words("VERDADERO", "FALSO"),
    "answers": words("Yes", "no", "NA"),
    "German answers": words("Ja", "nein"),
    "states": words("Stalled", " flowing"),
    "German states": words("Gestoppt", "fließend"),
    "decimal commas": words("1,0", "0,00"),
    "thousands": words("1,000", "0,000"),
    "codes": words("s", "f"),
}
HEADERS = {
    "exact": header("filename", "stalled"),
    "case": header("FileName ", "STALLED"),
    "aliases": header("Video name", "Stalled?"),
    "German": header("Dateiname", "Gestoppt"),
    "vague": header("File", "Label"),
    "reversed": header("filename", "flowing"),
    "German reversed": header("Dateiname", "fließend"),
    "unknown": header("filename", "result"),
}
NAMES = {
    "as they are": renamed(str),
    "stems": renamed(lambda name: name.removesuffix(".mp4")),
    "case": renamed(str.upper),
    "backslashes": renamed(lambda name: f"D:\\study\\{name}".replace("/", "\\")),
    "converted": renamed(lambda name: f" ./{name}".replace(".mp4", ".avi")),
    "without folders": renamed(lambda name: name.rpartition("/")[2]),
}
SHAPES: dict[str, Callable[[Rows], Rows]] = {
    "as it is": lambda rows: rows,
    "blank rows": lambda rows: [row for each in rows for row in (each, ["", " "])],
    "blank columns": lambda rows: [[*row, "", ""] for row in rows],
    "notes": lambda rows: [["note", *rows[0]], *(["x, y; z", *row] for row in rows[1:])],
    "reversed columns": lambda rows: [row[::-1] for row in rows],
    "index": lambda rows: [["", *rows[0]], *([str(at), *row] for at, row in enumerate(rows[1:]))],
    "opposite": lambda rows: [[*rows[0], "flowing"], *([*row, row[1]] for row in rows[1:])],
}
CHOICES = (FILES, LABELS, HEADERS, NAMES, SHAPES)


def write(path: Path, file: str, *changes: Callable[[Rows], Rows]) -> dict[str, int | None]:
    """Write the table, and return what it means."""
    how = FILES[file]
    umlaut = "ü" if how.get("umlaut") else "e"
    meant = {name.replace("e", umlaut, 1): label for name, label in MEANT.items()}
    rows: Rows = [["", ""], *([name, "" if at is None else str(at)] for name, at in meant.items())]
    for change in changes:
        rows = change(rows)
    out = io.StringIO()
    out.write(f"{how['first']}\n" if "first" in how else "")
    csv.writer(
        out,
        delimiter=str(how.get("separator", ",")),
        quoting=how.get("quoting", csv.QUOTE_MINIMAL),  # type: ignore[arg-type]
        lineterminator=str(how.get("end", "\n")),
    ).writerows(rows)
    path.write_bytes(out.getvalue().encode(str(how.get("encoding", "utf-8"))))
    return meant


def understood(path: Path, recordings: list[str]) -> dict[str, int | None] | None:
    """Return the label of each recording, None if the table was refused."""
    try:
        table = tables.read_labels(path)
    except TableError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith(f"{path}: ")
        assert len(refusal) < 600
        return None
    partners = names.match(
        pd.Series(recordings, dtype="str"), table["filename"].astype("str"), path
    )
    labels = table.set_index("filename")["stalled"]
    return {
        recording: None if pd.isna(partner) else int(labels[partner])
        for recording, partner in zip(recordings, partners, strict=True)
    }


REFUSED = {
    ("labels", "thousands"),
    ("labels", "codes"),
    ("headers", "reversed"),
    ("headers", "German reversed"),
    ("headers", "unknown"),
    ("shapes", "opposite"),
}


def chosen(*keys: str) -> list[Callable[[Rows], Rows]]:
    """Return the changes in the order in which they apply."""
    return [kind[key] for kind, key in zip((LABELS, HEADERS, NAMES, SHAPES), keys, strict=True)]


PLAIN = tuple(next(iter(kind)) for kind in CHOICES)
ALONE = [
    (*PLAIN[:place], key, *PLAIN[place + 1 :]) for place, kind in enumerate(CHOICES) for key in kind
]
PAIRS = [
    tuple(one if one != plain else other for one, other, plain in zip(*both, PLAIN, strict=True))
    for both in itertools.combinations(ALONE, 2)
]


@pytest.mark.parametrize("keys", sorted({*ALONE, *PAIRS}), ids=", ".join)
def test_every_pair_is_understood_or_refused(tmp_path: Path, keys: tuple[str, ...]) -> None:
    path = tmp_path / "labels.csv"
    meant = write(path, keys[0], *chosen(*keys[1:]))
    read = understood(path, list(meant))
    kinds = dict(zip(("file", "labels", "headers", "names", "shapes"), keys, strict=True))
    is_vague = kinds["headers"] == "vague" and kinds["labels"] not in ("states", "German states")
    if is_vague or set(kinds.items()) & REFUSED:
        # An opposite column is no contradiction where its words say nothing.
        assert read is None or (kinds["shapes"] == "opposite" and read == meant)
    else:
        assert read == meant


@given(st.tuples(*(st.sampled_from(sorted(kind)) for kind in CHOICES)), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_none_is_understood_wrongly(
    tmp_path_factory: pytest.TempPathFactory, keys: tuple[str, ...], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("tables") / "labels.csv"
    meant = write(path, keys[0], *chosen(*keys[1:]))
    content = bytearray(path.read_bytes())
    # A slip: a byte is removed, or replaced by another mark.
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = data.draw(st.sampled_from([b"", b",", b";", b'"', b"\n"]))
        path.write_bytes(content)
    read = understood(path, list(meant))
    if read is not None:
        for recording, label in read.items():
            assert label in (None, meant[recording])


def test_no_word_has_two_meanings() -> None:
    assert not label_words.STALLED & label_words.FLOWING
    for word, label in (("sí", 1), ("si\u0301", 1), ("NÃO", 0), ("Nicht  gestoppt", 0)):
        assert label_words.parse(word) == label
    # Words of other meanings, and of several.
    for word in ("angehalten", "arrêté", "oui et non", "flow", "-1", "2", "1,5", "0,001", "10,0"):
        assert label_words.parse(word) is None


@given(st.floats(0, 1e6), st.integers(1, 6))
def test_a_comma_is_a_decimal_point_or_nothing(value: float, digits: int) -> None:
    written = f"{value:.{digits}f}"
    read = text.with_point(written.replace(".", ","))
    if digits == 3 and value >= 1:
        assert "," in read
    else:
        assert "," in read or float(read) == float(written)
        assert float(read.replace(",", ".")) == float(written)
    assert text.with_point(f"{round(value) + 1:,}").count(",") == f"{round(value) + 1:,}".count(",")


def test_what_was_understood_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stallscan")
    path = tmp_path / "labels.csv"
    write(path, "semicolon", *chosen("spreadsheet", "aliases", "stems", "notes"))
    tables.read_labels(path)
    said = [record.getMessage() for record in caplog.records if "labels:" in record.getMessage()]
    assert len(said) == 1
    for part in (str(path), "4 labels: 2 stalled", "separator ;", "'video name'", "'stalled?'"):
        assert part in said[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("filename,flowing\na.mp4,1\n", "column stalled"),
        ("filename,label\na.mp4,1\n", "column stalled"),
        ("filename,stalled,state\na.mp4,1,flowing\n", "'state'"),
        ("filename,stalled,is_stalled\na.mp4,1,0\n", "'is_stalled'"),
        ("filename,stalled\na.mp4;1\n", "one separator"),
        ("filename;stalled\na.mp4;1,000\n", "decimal comma"),
    ],
)
def test_a_refusal_names_the_one_thing_to_change(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(TableError, match=named):
        tables.read_labels(path)
