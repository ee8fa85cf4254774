"""Stall rates per field, mouse and group, corrected for the errors of the calls.

At a specificity of 99.3 % true rates of 0.4 % and 2 % are measured as 1.04 % and 2.39 %
(docs/facts.md 6). So the rates are corrected (Rogan & Gladen 1978) with the sampling error of
everything that was measured, and groups are compared mouse by mouse: vessels of one mouse are no
independent witnesses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from stallscan.calls.predictions import DECIDED, OPEN, read_predictions, read_text
from stallscan.catalog.groups import MOUSE_COLUMNS, check_cells, find_column
from stallscan.catalog.names import contrast, match
from stallscan.errors import InputError, TableError
from stallscan.rates.correction import (
    CallAccuracy,
    GroupDifference,
    Rate,
    compare,
    corrected,
    corrected_mean,
    resolves_from,
    say_measured,
)
from stallscan.words import Excluded, listed, percent

# The columns of the groups table, by any of their names.
COLUMNS = {"field": ("field",), "mouse": MOUSE_COLUMNS, "group": ("group",)}
GROUPS = "a CSV table with filename and any of field, mouse and group"
# What the recordings of a table without groups are called.
ONE_GROUP = "all"


@dataclass(frozen=True)
class Unit:
    """A field, a mouse or a group, and its rate.

    Attributes
    ----------
    field, mouse, group : str
        Its name, and of what it is a part; empty where that is not said or does not apply.
    mice : int
        Mice with a scored recording, for a group; 0 where no column names the mouse.
    review, unscorable : int
        Recordings left out: left to a person, and not to be scored.
    rate : Rate or None
        None where no recording was scored.
    note : str
        A sentence on what the rate cannot say; often empty.
    """

    field: str
    mouse: str
    group: str
    mice: int
    review: int
    unscorable: int
    rate: Rate | None
    note: str = ""


@dataclass(frozen=True)
class Rates:
    """The result of `rate`.

    Attributes
    ----------
    errors : CallAccuracy
        What was corrected for.
    fields, mice, groups : tuple of Unit
        In the order of the groups table; fields and mice are empty where no column names them.
    comparisons : tuple of Comparison
        Of every further group with the first.
    without_group, without_call : Excluded
        Recordings that only the calls, and only the groups table know.
    """

    errors: CallAccuracy
    fields: tuple[Unit, ...]
    mice: tuple[Unit, ...]
    groups: tuple[Unit, ...]
    comparisons: tuple[GroupDifference, ...]
    without_group: Excluded
    without_call: Excluded

    def sentences(self) -> list[str]:
        """Say what a reader of the tables must know."""
        notes = [
            f"group {unit.group}: {unit.note}" if len(self.groups) > 1 else unit.note
            for unit in self.groups
            if unit.note
        ]
        notes += [comparison.note for comparison in self.comparisons if comparison.note]
        tests = sum(comparison.welch_p is not None for comparison in self.comparisons)
        if tests > 1:
            notes.append(f"{tests} comparisons: multiply each p by {tests} (Bonferroni)")
        return [f"corrected for {self.errors}", *notes, *self._sentences_on_rows()]

    def _sentences_on_rows(self) -> Iterator[str]:
        scored = [unit for unit in (self.mice or self.fields) if unit.rate]
        unresolved = sum(not unit.rate.resolvable for unit in scored if unit.rate)
        if unresolved:
            kind = "mice" if self.mice else "fields"
            yield f"in {unresolved} of {len(scored)} {kind} the rate cannot be told from 0"
        empty = [unit.mouse for unit in self.mice if unit.rate is None]
        if empty:
            yield f"no recording was scored of {listed(empty)}, left out of the groups"
        for left, where in (
            (self.without_group, "have no row in the groups table"),
            (self.without_call, "of the groups table have no call"),
        ):
            if left.count:
                yield f"{left.count:,} recordings {where} and are left out: {left}"


def rate(
    calls: str | Path, groups: str | Path, errors: CallAccuracy, *, reference: str | None = None
) -> Rates:
    """Compute stall rates per field, mouse and group, and compare the groups.

    Parameters
    ----------
    calls : str or Path
        ``predictions.csv`` as `stallscan predict` writes it.
    groups : str or Path
        A table as `read_groups` takes it.
    errors : CallAccuracy
        Of these calls: same bundle, same threshold.
    reference : str, optional
        The group that the others are compared with; default: the first in the table.

    Raises
    ------
    InputError
        If a file is missing, no recording is in both, none of those is called flowing or stalled,
        the errors were measured on calls of another bundle or threshold, or there is no group
        `reference`.
    TableError
        If a table is wrong; rows are named.
    """
    calls, groups = Path(calls), Path(groups)
    predictions, units = read_predictions(calls), read_groups(groups)
    partner = match(predictions["filename"], units["filename"], groups)
    known = predictions.assign(partner=partner).dropna(subset="partner")
    table = known.merge(
        units.rename(columns={"filename": "partner"}), on="partner", validate="one_to_one"
    )
    if table.empty:
        raise InputError(
            f"{calls} and {groups} have no filename in common "
            f"({contrast(predictions['filename'].tolist(), units['filename'].tolist())}); "
            "give the groups of these recordings"
        )
    if not table["call"].isin(DECIDED).any():
        counts = table["call"].value_counts()
        raise InputError(
            f"{calls}: none of the {len(table):,} recordings in {groups} is called flowing or "
            f"stalled ({', '.join(f'{count:,} {call}' for call, count in counts.items())}), so "
            "there is no rate; see the column reason"
        )
    _refuse_other_calls(calls, table[table["call"].isin(DECIDED)], errors)
    if "group" not in table:
        table, units = table.assign(group=ONE_GROUP), units.assign(group=ONE_GROUP)
    # Groups, mice and fields come in the order of the groups table, not in that of the calls.
    order = pd.Series(range(len(units)), index=units["filename"])
    table = table.sort_values("partner", key=lambda names: names.map(order))
    fields = _count(table, ["field", "mouse", "group"]) if "field" in table else []
    mice = _count(table, ["mouse", "group"]) if "mouse" in table else []
    made, compared = _groups(table, mice, errors, reference)
    return Rates(
        errors=errors,
        fields=tuple(_unit(counts, errors) for counts in fields),
        mice=tuple(_unit(counts, errors) for counts in mice),
        groups=made,
        comparisons=compared,
        without_group=Excluded.of(predictions.loc[partner.isna(), "filename"].tolist()),
        without_call=Excluded.of(
            units.loc[~units["filename"].isin(partner.dropna()), "filename"].tolist()
        ),
    )


def read_groups(path: str | Path) -> pd.DataFrame:
    """Read the table that says to which field, mouse and group each recording belongs.

    Parameters
    ----------
    path : str or Path
        As `text.read` takes it: filename and at least one of the columns in `COLUMNS`. Other
        columns are passed over.

    Returns
    -------
    DataFrame
        filename and those of field, mouse and group that there are (str, none empty).

    Raises
    ------
    InputError
        If the file has no rows.
    TableError
        If the file is missing or no table, a column is missing, a filename stands there twice, a
        cell is empty, one mouse or group is written in two ways, or a field is in two mice or a
        mouse in two groups; rows are named.
    """
    path = Path(path)
    raw = read_text(path, GROUPS)
    found = {
        what: next((name for name in names if name in raw), None) for what, names in COLUMNS.items()
    }
    # A column of mice that nobody filled in does not hide the next one.
    found["mouse"] = (
        find_column(lambda name: raw[name].tolist() if name in raw else None, fewest=1)
        or found["mouse"]
    )
    names = {name: what for what, name in found.items() if name}
    if "filename" not in raw or not names:
        raise TableError(
            f"{path}: {'column filename' if 'filename' not in raw else 'every further column'} is "
            "missing; expected a table with filename and any of field, mouse (or "
            f"{', '.join(COLUMNS['mouse'][1:])}) and group"
        )
    if raw.empty:
        raise InputError(f"{path}: holds no recordings; give one row for each")
    table = raw[["filename", *names]].rename(columns=names)
    twice = table["filename"].duplicated(keep=False)
    if twice.any():
        named = listed(_rows(table[twice]))
        raise TableError(f"{path}: a filename may stand there once, but see {named}")
    unnamed = table["filename"] == ""
    if unnamed.any():
        raise TableError(
            f"{path}: filename is empty in {listed(_rows(table[unnamed]))}; fill it in"
        )
    rows = _rows(table)
    for name, what in names.items():
        table[what] = check_cells(path, name, table[what].tolist(), rows)
    for part, whole in (("field", "mouse"), ("mouse", "group"), ("field", "group")):
        _refuse_two(path, table, part, whole)
    return table.reset_index(drop=True)


@dataclass(frozen=True)
class _Counts:
    """The recordings of one field, mouse or group."""

    names: dict[str, str]
    stalled: int
    scored: int
    review: int
    unscorable: int


def _count(table: pd.DataFrame, levels: list[str]) -> list[_Counts]:
    """Count the calls of each value of the first of `levels`; the others say what it is part of."""
    levels = [level for level in levels if level in table]
    counted = []
    for _, rows in table.groupby(levels[0], sort=False):
        calls = rows["call"].value_counts()
        number = {call: int(calls.get(call, 0)) for call in (*DECIDED, *OPEN)}
        counted.append(
            _Counts(
                names={level: str(rows[level].iloc[0]) for level in levels},
                stalled=number["stalled"],
                scored=number["stalled"] + number["flowing"],
                review=number["review"],
                unscorable=number["unscorable"],
            )
        )
    return counted


def _groups(
    table: pd.DataFrame, mice: list[_Counts], errors: CallAccuracy, reference: str | None
) -> tuple[tuple[Unit, ...], tuple[GroupDifference, ...]]:
    counted = _count(table, ["group"])
    names = [counts.names["group"] for counts in counted]
    # A mouse without a scored recording has no rate.
    members = {
        name: [mouse for mouse in mice if mouse.names["group"] == name and mouse.scored]
        for name in names
    }
    if not mice:
        return tuple(_unit(counts, errors, _without_mice(counts)) for counts in counted), ()
    units = tuple(
        _group_unit(counts, members[name], errors)
        for name, counts in zip(names, counted, strict=True)
    )
    tested = [name for name in names if members[name]]
    first = reference or tested[0]
    if first not in tested:
        raise InputError(f"no group {first} was scored; the groups are {listed(tested)}")
    stalled = {name: [mouse.stalled for mouse in members[name]] for name in tested}
    scored = {name: [mouse.scored for mouse in members[name]] for name in tested}
    pairs = [(first, name) for name in tested if name != first]
    return units, tuple(
        compare((one, two), (stalled[one], stalled[two]), (scored[one], scored[two]), errors)
        for one, two in pairs
    )


def _group_unit(counts: _Counts, mice: list[_Counts], errors: CallAccuracy) -> Unit:
    unit = _unit(counts, errors)
    if not mice:
        return unit
    made = corrected_mean(
        [mouse.stalled for mouse in mice], [mouse.scored for mouse in mice], errors
    )
    notes = [unit.note] if unit.note else []
    if len(mice) == 1:
        notes.insert(0, "there is one mouse, so no interval for the group can be given")
    elif impossible := _impossible(made, errors):
        notes = [impossible]
    elif made.resolvable:
        notes = []
    elif not notes:
        notes = ["the mice differ too much for their mean to be told from 0"]
    return replace(unit, mice=len(mice), rate=made, note="; ".join(notes))


def _unit(counts: _Counts, errors: CallAccuracy, note: str = "") -> Unit:
    made = corrected(counts.stalled, counts.scored, errors) if counts.scored else None
    notes = [note] if note else []
    if made is None:
        notes.append("no recording was scored")
    elif impossible := _impossible(made, errors):
        notes.append(impossible)
    elif not made.resolvable:
        notes.append(_unresolved(made, errors))
    return Unit(
        field=counts.names.get("field", ""),
        mouse=counts.names.get("mouse", ""),
        group=counts.names.get("group", ""),
        mice=0,
        review=counts.review,
        unscorable=counts.unscorable,
        rate=made,
        note="; ".join(notes),
    )


def _without_mice(counts: _Counts) -> str:
    return (
        f"no column names the mouse, so its {counts.scored:,} recordings are taken as independent: "
        "the interval is too narrow, and groups are not tested"
    )


def _impossible(made: Rate, errors: CallAccuracy) -> str:
    """Say where more or fewer are called stalled than the errors allow; empty if they allow it."""
    if made.interval is None or (made.interval.high > 0 and made.interval.low < 1):
        return ""
    few = made.interval.high <= 0
    return (
        f"{made.stalled:,} of {made.scored:,} called stalled is "
        + (
            f"fewer than a specificity of {percent(errors.specificity)} makes by chance"
            if few
            else f"more than a sensitivity of {percent(errors.sensitivity)} can find"
        )
        + ": the errors were measured on other recordings, and the interval means nothing"
    )


def _unresolved(made: Rate, errors: CallAccuracy) -> str:
    """Say why a rate cannot be told from 0."""
    if made.stalled == 0:
        return f"none of {made.scored:,} recordings is called stalled"
    called = f"{made.stalled:,} of {made.scored:,} called stalled"
    from_ = resolves_from(made.scored, errors)
    least = "" if from_ is None else f"; so many recordings tell rates from {percent(from_)} up"
    return (
        f"{called} is below what a specificity of {percent(errors.specificity)} "
        f"({say_measured(errors.flowing, 'flowing')}) can resolve: it makes "
        f"{made.scored * (1 - errors.specificity):.3g} false ones on average{least}"
    )


def _refuse_other_calls(calls: Path, table: pd.DataFrame, errors: CallAccuracy) -> None:
    """Refuse calls of another bundle or threshold than those whose errors were measured."""
    for what, measured, used in (
        ("bundle", errors.bundles, sorted(set(table["bundle"]))),
        ("threshold", errors.thresholds, sorted(set(table["threshold"].dropna()))),
    ):
        if measured and set(used) - set(measured):
            names = [[str(one) for one in some] for some in (measured, used)]
            raise InputError(
                f"{calls}: its calls were made with {what} {listed(names[1])}, but sensitivity and "
                f"specificity were measured with {listed(names[0])}; evaluate what was used, or "
                "state sensitivity and specificity"
            )


def _refuse_two(path: Path, table: pd.DataFrame, part: str, whole: str) -> None:
    """Refuse a field in two mice, a mouse in two groups, or a field in two groups."""
    if part not in table or whole not in table:
        return
    several = table.groupby(part, sort=False)[whole].unique()
    several = several[several.map(len) > 1]
    if not several.empty:
        named = [f"{name} in {', '.join(wholes)}" for name, wholes in several.items()]
        raise TableError(
            f"{path}: a {part} belongs to one {whole}, but see {listed(named, separator='; ')}; "
            f"give every {part} a name of its own"
        )


def _rows(table: pd.DataFrame) -> list[str]:
    """Name rows by their line in the file, as `predictions.read_text` gives it."""
    return [f"line {line} ({name or 'no filename'})" for line, name in table["filename"].items()]
