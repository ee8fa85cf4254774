import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stallscan.cli import main
from stallscan.errors import InputError
from stallscan.words import printable


@given(st.text(st.characters(codec=None, categories=["Cc", "Cs", "Zl", "Zp", "Lu", "Po"])))
def test_any_text_becomes_one_line_of_utf8(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


@given(st.binary(), st.binary())
def test_names_without_backslashes_stay_apart(first: bytes, second: bytes) -> None:
    names = [
        name.replace(b"\\", b"/").decode("utf-8", "surrogateescape") for name in (first, second)
    ]
    assert (printable(names[0]) == printable(names[1])) == (names[0] == names[1])


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\udcfcb", r"a\xfcb"), ("\ud800", r"\ud800"), ("\t\x7f", r"\t\x7f"), ("\x9f", r"\u009f")],
)
def test_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_bytes_that_a_locale_did_not_decode_are_decoded() -> None:
    assert printable("日本\n".encode().decode("ascii", "surrogateescape")) == r"日本\n"


def test_messages_are_printable() -> None:
    assert str(InputError("m\udcfc.mp4: no such file")) == r"m\xfc.mp4: no such file"


def test_a_console_that_cannot_show_a_name_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, console)
    monkeypatch.setattr(
        sys, "argv", ["stallscan", "evaluate", "マウス.csv", "--labels", "a.csv", "-o", "a"]
    )
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    console.seek(0)
    assert r"\u30de\u30a6\u30b9.csv" in console.read()
