"""Text helpers for messages: escaping, percentages, suggestions, lists."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A message names at most this many rows or recordings and counts the rest.
MAX_NAMED = 3

# Control characters, Unicode line separators, and surrogates, which UTF-8 cannot encode.
_AWKWARD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Surrogates that stand for undecodable bytes of a file name (PEP 383).
_BYTES = re.compile(r"[\udc80-\udcff]+")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that break a line or cannot be encoded as UTF-8.

    They are escaped as in Python: a line feed becomes ``\n``, other control characters ``\x07`` or
    ``\u2028``, and a byte of a file name that is not UTF-8 ``\xfc``. UTF-8 bytes that the locale
    (such as C) did not decode are decoded. Distinct texts without backslashes stay distinct.

    Parameters
    ----------
    text : str
        A file name, path or message.
    keep : str
        Characters to leave unescaped.
    """
    if not _AWKWARD.search(text):
        return text
    text = _BYTES.sub(_decoded, text)
    return _AWKWARD.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _decoded(match: re.Match[str]) -> str:
    return match[0].encode("ascii", "surrogateescape").decode("utf-8", "surrogateescape")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    elif code >= 0x80:
        return f"\\u{code:04x}"
    return _SHORT.get(character, f"\\x{code:02x}")


def shortened(text: str, most: int) -> str:
    """Return `text`, without its middle if it has more than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} [...] {text[-half:]}"


def counted(number: int, what: str) -> str:
    """Count things: ``1 call``, ``2,000 calls``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """Format a share as a percentage with three digits: 30 %, 4.6 %, 0.329 %."""
    text = f"{100.0 * share:.3g}"
    if text == "100" and share < 1.0:
        # Only exactly all is 100 %: 99.988 % of half a million leaves out dozens. Show two digits
        # of the difference.
        text = f"{100.0 - float(f'{100.0 * (1.0 - share):.2g}'):.10g}"
    return f"{text} %"


def say_time(seconds: float) -> str:
    """Format a duration: 12 s, 3 min 20 s, 5 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: a similar known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" (did you mean {near[0]}?)"
    return f" (known: {', '.join(known)})" if known else ""


def enumerated(parts: Sequence[str], word: str = "and") -> str:
    """Join as in prose: ``a, b and c``."""
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def listed(items: Sequence[str], most: int = MAX_NAMED, separator: str = ", ") -> str:
    """Join the first `most` items and the number of others: ``a, b and 1,200 more``."""
    return separator.join(items[:most]) + _rest(len(items) - most)


def without_path(reason: str, filename: str) -> str:
    """Remove the path before each remark of a message, where the filename is shown already."""
    # The path itself may contain a colon, so look for the filename.
    name = filename.replace("\\", "/").rsplit("/", maxsplit=1)[-1]
    head, separator, rest = reason.partition(f"{name}: ")
    is_path = separator and (not head or head[-1] in "/\\")
    if not is_path:
        return reason
    rest = rest.replace(f"; {head}{separator}", "; ")
    return rest[:1].upper() + rest[1:]


def _rest(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""


@dataclass(frozen=True)
class Excluded:
    """Recordings that are left out: their number, and the names of the first few."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Excluded":
        """Count `names`, and keep the first `MAX_NAMED`."""
        return cls(len(names), tuple(names[:MAX_NAMED]))

    def __str__(self) -> str:
        return ", ".join(self.first) + _rest(self.count - len(self.first))
