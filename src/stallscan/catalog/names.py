"""Names of recordings in different tables, paired.

Two names are of one recording only if one is the end of the other, folder by folder: labels made
in another place name `study/m1/001.mp4` what is called `m1/001.mp4` or `001.mp4` here. A pair is
certain or it is not made: where several fit, none is taken.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stallscan.words import listed

# Endings of recordings, also of those that stallscan does not read: a table may name the original
# of a converted file.
SUFFIXES = re.compile(
    r"(\.ome)?\.(mp4|m4v|mov|avi|mkv|webm|wmv|mpe?g|flv|ogv|mts|gif|tiff?|npy|npz|lsm|czi|nd2|oif|oib)$",
    re.IGNORECASE,
)
SHOWN = 3

log = logging.getLogger("stallscan")

# Pairs of places, and places that fit several.
_Fit = tuple[list[tuple[int, int]], list[int]]

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
    partners = [places.get(name, -1) for name in first]
    made = Pairs(partners)
    if -1 not in partners:
        return made
    taken = set(partners)
    ours = {place: _form(first[place], True) for place, one in enumerate(partners) if one == -1}
    theirs = {place: _form(name) for place, name in enumerate(second) if place not in taken}
    for words, simplify, fit in _STEPS:
        keys = [
            side if simplify is None else {place: simplify(key) for place, key in side.items()}
            for side in (ours, theirs)
        ]
        pairs, ambiguous = fit(*keys)
        made.ambiguous[:] = ambiguous
        for place, partner in pairs:
            partners[place] = partner
            same = keys[0][place] == keys[1][partner]
            mine, other = ours.pop(place), theirs.pop(partner)
            if words or not same:
                lone = "/" not in mine or "/" not in other
                where = "" if same else _BY_NAME if lone else _BY_END
                made.loose.setdefault(", ".join(filter(None, [where, words])), []).append(place)
        if not ours or not theirs:
            break
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


def _fit_equal(ours: dict[int, str], theirs: dict[int, str]) -> _Fit:
    """Pair names that are equal to each other and to no other."""
    single, others = _single(ours), _single(theirs)
    return [
        (place, others[key])
        for key, place in single.items()
        if place >= 0 and key and others.get(key, -1) >= 0
    ], []


def _fit_ends(ours: dict[int, str], theirs: dict[int, str]) -> _Fit:
    """Pair names of which one is the end of the other, and both of no other."""
    pairs, ambiguous = [], []
    others = _by_base(theirs)
    for base, mine in _by_base(ours).items():
        if base not in others or not base:
            continue
        candidates = others[base]
        if isinstance(mine, int) and isinstance(candidates, int):
            if _is_end(ours[mine], theirs[candidates]):
                pairs.append((mine, candidates))
            continue
        mine, candidates = (
            [places] if isinstance(places, int) else places for places in (mine, candidates)
        )
        fit = _fitting(mine, ours, candidates, theirs)
        back = _fitting(candidates, theirs, mine, ours)
        for place, partner in fit.items():
            if partner >= 0 and back[partner] == place:
                pairs.append((place, partner))
            elif partner != _NONE:
                ambiguous.append(place)
    return pairs, ambiguous


def _fitting(
    mine: list[int], ours: dict[int, str], candidates: list[int], theirs: dict[int, str]
) -> dict[int, int]:
    """Find for each of mine the one candidate that is its end, or has it as its end."""
    whole, longer = _single({place: theirs[place] for place in candidates}), dict[str, int]()
    for place in candidates:
        for end in _ends(theirs[place]):
            longer[end] = _SEVERAL if end in longer else place
    found = {}
    for place in mine:
        fit = {whole[end] for end in _ends(ours[place]) if end in whole}
        if ours[place] in longer:
            fit.add(longer[ours[place]])
        found[place] = _NONE if not fit else fit.pop() if len(fit) == 1 else _SEVERAL
    return found


def _single(keys: dict[int, str]) -> dict[str, int]:
    """Return the place of each key; `_SEVERAL` where it has more than one."""
    places: dict[str, int] = {}
    for place, key in keys.items():
        places[key] = _SEVERAL if key in places else place
    return places


def _by_base(keys: dict[int, str]) -> dict[str, int | list[int]]:
    """Gather places by the last part of their path: without it in common no names fit.

    A place by itself is no list: half a million lists keep the garbage collector busy.
    """
    places: dict[str, int | list[int]] = {}
    for place, key in keys.items():
        base = key.rpartition("/")[2]
        before = places.setdefault(base, place)
        if isinstance(before, list):
            before.append(place)
        elif before != place:
            places[base] = [before, place]
    return places


def _is_end(one: str, other: str) -> bool:
    return one == other or one.endswith(f"/{other}") or other.endswith(f"/{one}")


def _ends(key: str) -> Iterator[str]:
    """Yield a path, and what is left of it without its first folders."""
    while key:
        yield key
        key = key.partition("/")[2]


_BY_NAME = "by file name alone"
_BY_END = "by the end of their paths"
# What is said of it, what names are simplified to, and how they are to fit. A pair that fits at one
# step fits at all later ones, so what is ambiguous once remains so.
_STEPS: tuple[tuple[str, Callable[[str], str] | None, Callable[..., _Fit]], ...] = (
    ("", None, _fit_equal),
    ("", None, _fit_ends),
    ("without regard to case", _ignoring_case, _fit_ends),
    ("without regard to case and the file's ending", _without_suffix, _fit_ends),
)


def match(
    filenames: "pd.Series[str]", known: "pd.Series[str]", table: str | Path
) -> "pd.Series[str]":
    """Find for each filename its partner among `known`, as `names.pair` does.

    What was paired otherwise than by equal names, and what fits several, is logged.

    Parameters
    ----------
    filenames : Series
        Of predictions or recordings, none twice.
    known : Series
        Of another table, none twice.
    table : str or Path
        That other table, for the log.

    Returns
    -------
    Series
        str with the index of `filenames`: the partner's name, NaN where there is none.
    """
    mine, theirs = filenames.tolist(), known.tolist()
    pairs = pair(mine, theirs)
    for how, places in pairs.loose.items():
        first = places[0]
        log.warning(
            "%s: %s of %s recordings were matched %s, such as %r with %r",
            *(table, f"{len(places):,}", f"{len(mine):,}", how),
            *(mine[first], theirs[pairs.partners[first]]),
        )
    if pairs.ambiguous:
        log.warning(
            "%s: %s recordings fit several names, or several fit one, and are not matched: %s",
            *(table, f"{len(pairs.ambiguous):,}"),
            listed([mine[place] for place in pairs.ambiguous]),
        )
    partners = [theirs[place] if place >= 0 else np.nan for place in pairs.partners]
    return pd.Series(partners, filenames.index, dtype=filenames.dtype)
