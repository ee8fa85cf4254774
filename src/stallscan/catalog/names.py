"""Match the names of recordings in different tables.

Two names match only if one ends with the other, folder by folder: labels made elsewhere may say
`study/m1/001.mp4` for what is `m1/001.mp4` or `001.mp4` here. Ambiguous names are never matched.
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

# Endings of recordings, including formats that stallscan does not read, because a table may name
# the original of a converted file.
SUFFIXES = re.compile(
    r"(\.ome)?\.(mp4|m4v|mov|avi|mkv|webm|wmv|mpe?g|flv|ogv|mts|gif|tiff?|npy|npz|lsm|czi|nd2|oif|oib)$",
    re.IGNORECASE,
)
# The end of a region's name, which `vessels.regions.code_of` derives from its place.
CODE = re.compile("-[0-9a-f]{4}$")
SHOWN = 3

log = logging.getLogger("stallscan")

# Pairs of positions (ours, theirs), and our positions that are ambiguous.
_Fit = tuple[list[tuple[int, int]], list[int]]

_NONE, _SEVERAL = -1, -2


@dataclass(frozen=True)
class Pairs:
    """The matched names of two tables. All numbers are positions in a table."""

    partners: list[int]  # for each name of the first table its match in the second; -1 without one
    # Names of the first table that match a different name, by how they were matched.
    loose: dict[str, list[int]] = field(default_factory=dict)
    # Names of the first table without a match because several fit.
    ambiguous: list[int] = field(default_factory=list)


def pair(first: Sequence[str], second: Sequence[str]) -> Pairs:
    """Match the names of two tables, in which each name occurs once.

    Equal names are matched first. Then come those that are equal after normalising Unicode, slashes
    and surrounding whitespace, then those where one name ends with the other, then the same
    ignoring case, and last ignoring case and the file's ending. Each step only matches names that
    fit exactly one name in the other table.

    Parameters
    ----------
    first : sequence of str
        Names as stallscan writes them: with ``/``. A backslash in them is not a separator but
        escapes a byte that is not UTF-8.
    second : sequence of str
        Names as anybody writes them: with ``/`` or a backslash.
    """
    places = {name: place for place, name in enumerate(second)}
    partners = [places.get(name, -1) for name in first]
    pairs = Pairs(partners)
    if -1 not in partners:
        return pairs
    taken = set(partners)
    ours = {
        place: _form(first[place], True) for place, partner in enumerate(partners) if partner == -1
    }
    theirs = {place: _form(name) for place, name in enumerate(second) if place not in taken}
    for words, simplify, fit in _STEPS:
        keys = [
            side if simplify is None else {place: simplify(key) for place, key in side.items()}
            for side in (ours, theirs)
        ]
        matched, ambiguous = fit(*keys)
        pairs.ambiguous[:] = ambiguous
        for place, partner in matched:
            partners[place] = partner
            same = keys[0][place] == keys[1][partner]
            mine, other = ours.pop(place), theirs.pop(partner)
            if words or not same:
                lone = "/" not in mine or "/" not in other
                where = "" if same else _BY_NAME if lone else _BY_END
                pairs.loose.setdefault(", ".join(filter(None, [where, words])), []).append(place)
        if not ours or not theirs:
            break
    return pairs


def forms(names: Sequence[str], ours: bool = False) -> Sequence[str]:
    """Return normalised names: composed Unicode, ``/`` between folders, no outer whitespace.

    With `ours` a backslash is part of a name; otherwise it separates folders.
    """
    return [_form(name, ours) for name in names]


def contrast(first: Sequence[str], second: Sequence[str]) -> str:
    """Describe how the names of two tables without a common name differ, with examples."""
    shown = " and ".join(", ".join(map(repr, side[:SHOWN])) for side in (first, second))
    by_base: dict[str, str] = {}
    for name in second:
        by_base.setdefault(_base(_form(name)), name)
    for name in first:
        other = by_base.get(_base(_form(name, ours=True)))
        if other is None:
            continue
        if pair([name], [other]).partners == [0]:
            return f"{shown}; a name fits several others, such as {name!r} and {other!r}"
        return f"{shown}; {name!r} and {other!r} are in different folders"
    regions = {CODE.sub("", name): name for name in second}
    for name in first:
        other = regions.get(CODE.sub("", name))
        if other is not None:
            return (
                f"{shown}; {name!r} and {other!r} are regions of the same name at different "
                "places, or one lacks the code at its end"
            )
    return f"{shown}; no file name occurs in both"


def is_bare(name: str) -> bool:
    """Whether a name has no folder."""
    return "/" not in name and "\\" not in name


def _form(name: str, ours: bool = False) -> str:
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if "\\" in name and not ours:
        name = name.replace("\\", "/")
    name = name.strip()
    if "./" in name or "//" in name or name[:1] == "/":
        name = "/".join(folder for folder in name.split("/") if folder not in ("", "."))
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
    """Match names that are equal to each other and to no others."""
    single, others = _single(ours), _single(theirs)
    return [
        (place, others[key])
        for key, place in single.items()
        if place >= 0 and key and others.get(key, -1) >= 0
    ], []


def _fit_ends(ours: dict[int, str], theirs: dict[int, str]) -> _Fit:
    """Match names where one ends with the other and neither fits a third name."""
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
    """Return for each of `mine` the candidate that it ends with or that ends with it.

    The value is `_NONE` if there is no such candidate, and `_SEVERAL` if there are more.
    """
    whole, longer = _single({place: theirs[place] for place in candidates}), dict[str, int]()
    for place in candidates:
        for end in _ends(theirs[place]):
            longer[end] = _SEVERAL if end in longer else place
    fitting = {}
    for place in mine:
        fit = {whole[end] for end in _ends(ours[place]) if end in whole}
        if ours[place] in longer:
            fit.add(longer[ours[place]])
        fitting[place] = _NONE if not fit else fit.pop() if len(fit) == 1 else _SEVERAL
    return fitting


def _single(keys: dict[int, str]) -> dict[str, int]:
    """Return the position of each key; `_SEVERAL` if it has more than one."""
    places: dict[str, int] = {}
    for place, key in keys.items():
        places[key] = _SEVERAL if key in places else place
    return places


def _by_base(keys: dict[int, str]) -> dict[str, int | list[int]]:
    """Group positions by file name, which names must share to match.

    A single position is not put into a list, because half a million lists slow the garbage
    collector down.
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


def _is_end(mine: str, other: str) -> bool:
    return mine == other or mine.endswith(f"/{other}") or other.endswith(f"/{mine}")


def _ends(key: str) -> Iterator[str]:
    """Yield a path, then the path without its first folder, without its first two, and so on."""
    while key:
        yield key
        key = key.partition("/")[2]


_BY_NAME = "by file name alone"
_BY_END = "by the end of their paths"
# Steps of matching: words for the log, how names are simplified, how they must fit. A pair that
# fits at one step fits at all later ones, so an ambiguous name remains ambiguous.
_STEPS: tuple[tuple[str, Callable[[str], str] | None, Callable[..., _Fit]], ...] = (
    ("", None, _fit_equal),
    ("", None, _fit_ends),
    ("ignoring case", _ignoring_case, _fit_ends),
    ("ignoring case and the file's ending", _without_suffix, _fit_ends),
)


def match(
    filenames: "pd.Series[str]", known: "pd.Series[str]", table: str | Path
) -> "pd.Series[str]":
    """Match filenames with the `known` names of another table, as `pair` does.

    Names that match without being equal, and ambiguous names, are logged.

    Parameters
    ----------
    filenames, known : Series
        Each name once.
    table : str or Path
        The other table, for the log.

    Returns
    -------
    Series
        str with the index of `filenames`: the matching name, NaN without one.
    """
    mine, theirs = filenames.tolist(), known.tolist()
    pairs = pair(mine, theirs)
    for how, places in pairs.loose.items():
        first = places[0]
        log.warning(
            "%s: %s of %s recordings matched %s, such as %r with %r",
            table,
            f"{len(places):,}",
            f"{len(mine):,}",
            how,
            mine[first],
            theirs[pairs.partners[first]],
        )
    if pairs.ambiguous:
        log.warning(
            "%s: %s recordings fit several names, or share the name that they fit, and are not "
            "matched: %s",
            table,
            f"{len(pairs.ambiguous):,}",
            listed([mine[place] for place in pairs.ambiguous]),
        )
    partners = [theirs[place] if place >= 0 else np.nan for place in pairs.partners]
    return pd.Series(partners, filenames.index, dtype=filenames.dtype)
