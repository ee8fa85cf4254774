"""Names of recordings in different tables, paired.

Two names are of one recording only if one is the end of the other, folder by folder: labels made
in another place name `study/m1/001.mp4` what is called `m1/001.mp4` or `001.mp4` here. A pair is
certain or it is not made: where several fit, none is taken.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

# Endings of recordings, also of those that stallscan does not read: a table may name the original
# of a converted file.
SUFFIXES = re.compile(
    r"(\.ome)?\.(mp4|m4v|mov|avi|mkv|webm|wmv|mpe?g|flv|ogv|mts|gif|tiff?|npy|npz|lsm|czi|nd2|oif|oib)$",
    re.IGNORECASE,
)
SHOWN = 3

_NONE, _SEVERAL = -1, -2


@dataclass(frozen=True)
class Pairs:
    """Names of two tables, paired.

    Attributes
    ----------
    partners : list of int
        For each name of the first table the place of its partner in the second; -1 without one.
    loose : dict of str to list of int
        Names of the first table whose partner is called differently, by what was made of it.
    ambiguous : list of int
        Names of the first table without a partner because several fit.
    """

    partners: list[int]
    loose: dict[str, list[int]] = field(default_factory=dict)
    ambiguous: list[int] = field(default_factory=list)


def pair(first: Sequence[str], second: Sequence[str]) -> Pairs:
    """Pair the names of two tables; no name stands twice in either.

    Equal names go first. Then those equal but for Unicode form, kind of slash and blanks around
    them, then those of which one is the end of the other, then the same without regard to case,
    and last without regard to case and the file's ending. At each step only names that fit one
    name of the other table, which fits no other, are paired.

    Parameters
    ----------
    first : sequence of str
        Names as stallscan gives them: with ``/``. A backslash in them is no separator, it stands
        for a byte that is no UTF-8.
    second : sequence of str
        Names as anybody gives them: with ``/`` or a backslash.
    """
    places = {name: place for place, name in enumerate(second)}
    partners = [places.get(name, _NONE) for name in first]
    mine = [place for place, partner in enumerate(partners) if partner == _NONE]
    made = Pairs(partners)
    if not mine:
        return made
    taken = set(partners)
    theirs = [place for place in range(len(second)) if place not in taken]
    ours = dict(zip(mine, forms([first[place] for place in mine], ours=True), strict=True))
    others = dict(zip(theirs, forms([second[place] for place in theirs]), strict=True))
    found: dict[int, int] = {}
    for words, simplify, ends in _STEPS:
        mine_now, theirs_now = (
            {place: simplify(key) for place, key in side.items()} for side in (ours, others)
        )
        found, back = _fitting(mine_now, theirs_now, ends), _fitting(theirs_now, mine_now, ends)
        for place, partner in found.items():
            if partner < 0 or back[partner] != place:
                continue
            partners[place] = partner
            if words or ours[place] != others[partner]:
                lone = "/" not in ours[place] or "/" not in others[partner]
                same = mine_now[place] == theirs_now[partner]
                where = "" if same else _BY_NAME if lone else _BY_END
                how = ", ".join(filter(None, [where, words]))
                made.loose.setdefault(how, []).append(place)
            del ours[place], others[partner]
        if not ours or not others:
            break
    made.ambiguous.extend(place for place in ours if found.get(place, _NONE) != _NONE)
    return made


def forms(names: Sequence[str], ours: bool = False) -> Sequence[str]:
    """Return names in one form: composed Unicode, ``/`` between folders, no blanks around.

    Parameters
    ----------
    names : sequence of str
        The names.
    ours : bool
        Whether a backslash is part of a name; otherwise it separates folders.
    """
    return [_form(name, ours) for name in names]


def contrast(first: Sequence[str], second: Sequence[str]) -> str:
    """Show names of two tables that have none in common, and say in what they differ."""
    shown = " and ".join(", ".join(map(repr, side[:SHOWN])) for side in (first, second))
    by_base: dict[str, str] = {}
    for name in second:
        by_base.setdefault(_base(_form(name)), name)
    for name in first:
        other = by_base.get(_base(_form(name, ours=True)))
        if other is None:
            continue
        if pair([name], [other]).partners == [0]:
            return f"{shown}; several fit one name, such as {name!r} and {other!r}"
        return f"{shown}; {name!r} and {other!r} are in different folders"
    return f"{shown}; no file is called the same in both"


def is_bare(name: str) -> bool:
    """Whether a name says nothing of the folder."""
    return "/" not in name and "\\" not in name


def _form(name: str, ours: bool = False) -> str:
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if "\\" in name and not ours:
        name = name.replace("\\", "/")
    name = name.strip()
    if "./" in name or "//" in name or name[:1] == "/":
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    while name.startswith("../"):
        name = name[3:]
    return name


def _base(form: str) -> str:
    return _without_suffix(form).rpartition("/")[2]


def _ignoring_case(form: str) -> str:
    return form.lower() if form.isascii() else unicodedata.normalize("NFC", form.casefold())


def _without_suffix(form: str) -> str:
    return _ignoring_case(SUFFIXES.sub("", form) or form)


_BY_NAME = "by file name alone"
_BY_END = "by the end of their paths"
# What is said of it, what names are simplified to, and whether one may be the end of the other. A
# pair that fits at one step fits at all later ones, so what is ambiguous once remains so.
_STEPS: tuple[tuple[str, Callable[[str], str], bool], ...] = (
    ("", str, False),
    ("", str, True),
    ("without regard to case", _ignoring_case, True),
    ("without regard to case and the file's ending", _without_suffix, True),
)


def _fitting(keys: dict[int, str], others: dict[int, str], ends: bool) -> dict[int, int]:
    """Find for each key the one other that is equal, or is its end or has it as its end."""
    whole: dict[str, int] = {}
    longer: dict[str, int] = {}
    for place, key in others.items():
        whole[key] = _SEVERAL if key in whole else place
        if ends:
            for end in _ends(key):
                longer[end] = _SEVERAL if end in longer else place
    found = {}
    for place, key in keys.items():
        fit = {whole[end] for end in _ends(key) if end in whole} if ends else set()
        fit |= {side[key] for side in (whole, longer) if key in side}
        found[place] = _NONE if not fit or not key else fit.pop() if len(fit) == 1 else _SEVERAL
    return found


def _ends(key: str) -> Iterator[str]:
    """Yield a path, and what is left of it without its first folders."""
    while key:
        yield key
        key = key.partition("/")[2]
