import pytest
from hypothesis import given
from hypothesis import strategies as st

from stallscan.errors import InputError
from stallscan.words import printable, say_time


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


def test_durations() -> None:
    assert [say_time(s) for s in (0.4, 59, 200, 18420)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "5 h 7 min",
    ]
