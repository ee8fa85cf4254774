"""Text in a form that every file and console takes."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A message names this many wrong rows or recordings and counts the others.
MAX_NAMED = 5

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


def percent(share: float) -> str:
    """Write a share as a percentage of three digits: 30 %, 4.6 %, 0.329 %; 100 % is all."""
    text = f"{100.0 * share:.3g}"
    if text == "100" and share < 1.0:
        # 99.988 % of half a million leaves dozens: two digits of what is missing.
        text = f"{100.0 - float(f'{100.0 * (1.0 - share):.2g}'):.10g}"
    return f"{text} %"


def suggest(word: str, known: Iterable[str]) -> str:
    """End of a sentence about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" (did you mean {near[0]}?)"
    return f" (known: {', '.join(known)})" if known else ""


def listed(items: Sequence[str], most: int = MAX_NAMED, separator: str = ", ") -> str:
    """Join items for a message: the first `most` of them, and a count of the others.

    Returns
    -------
    str
        ``a, b and 1,200 more``; empty if there are no items.
    """
    return separator.join(items[:most]) + _rest(len(items) - most)


def _rest(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""


@dataclass(frozen=True)
class Excluded:
    """Recordings that were left out: how many, and the names of the first few."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Excluded":
        """Count `names`, and keep the first."""
        return cls(len(names), tuple(names[:MAX_NAMED]))

    def __str__(self) -> str:
        return ", ".join(self.first) + _rest(self.count - len(self.first))
