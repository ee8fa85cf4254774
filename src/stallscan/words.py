"""Text in a form that every file and console takes."""

import re

# Control characters, the line ends of Unicode, and surrogates: no UTF-8 has those last.
_AWKWARD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What Python makes of the bytes of a file name that it cannot decode (PEP 383).
_BYTES = re.compile(r"[\udc80-\udcff]+")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str, keep: str = "") -> str:
    r"""Return text without characters that break a line or cannot be written as UTF-8.

    They are written as Python writes them: a line feed as ``\n``, other control characters as
    ``\x07`` or ``\u2028``, a byte of a file name that is not UTF-8 as ``\xfc``. Bytes that are
    UTF-8, which a locale such as C does not decode, are decoded. Two texts give the same result
    only if one of them has a backslash where the other has such a character.

    Parameters
    ----------
    text : str
        A file name, path or message.
    keep : str
        Characters that are left as they are.
    """
    if not _AWKWARD.search(text):
        return text
    text = _BYTES.sub(_decoded, text)
    return _AWKWARD.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _decoded(found: re.Match[str]) -> str:
    return found[0].encode("ascii", "surrogateescape").decode("utf-8", "surrogateescape")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    elif code >= 0x80:
        return f"\\u{code:04x}"
    return _SHORT.get(character, f"\\x{code:02x}")
