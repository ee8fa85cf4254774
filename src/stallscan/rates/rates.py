"""Stall rates of fields, mice and groups, corrected for wrong calls.

At a specificity of 99.3 %, true rates of 0.4 % and 2 % are measured as 1.04 % and 2.39 %
(docs/facts.md 6). The correction (Rogan & Gladen 1978) includes all sampling errors. Groups are
compared with one value per mouse, because vessels of the same mouse are not independent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from stallscan.calls import corrections
from stallscan.calls.predictions import (
    DECIDED,
    is_simulated,
    made_by,
    of_simulated,
    read_predictions,
    read_run,
    warn_if_unfinished,
    was_learned,
)
from stallscan.catalog.names import contrast, match
from stallscan.errors import InputError
from stallscan.rates import notes
from stallscan.rates.correction import (
    CallAccuracy,
    GroupDifference,
    Rate,
    compare,
    corrected,
    corrected_mean,
)
from stallscan.rates.groups_table import read_groups
from stallscan.rates.reviewed import Tally, after, balance, tally
from stallscan.words import Excluded, enumerated, listed

# The name of the group if the table has no column group.
ONE_GROUP = "all"
# What makes calls besides bundle and threshold, as `predictions.made_by` names it, in words.
MADE_BY = {
    "prevalence": "another expected share of stalls",
    "calibrations": "another calibration",
    "low": "another lower limit",
    "consistency": "another choice of --consistency",
}


@dataclass(frozen=True)
class Unit:
    """A field, a mouse or a group, and its rate."""

    # Its name and what it belongs to; empty if unknown or not applicable.
    field: str
    mouse: str
    group: str
    # For a group, the number of mice with a scored recording; 0 if no column names the mouse.
    mice: int
    # Recordings that the rate leaves out.
    review: int
    unscorable: int
    # Scored recordings that a person answered, so that their calls are known to be right.
    known: int
    # None if no recording was scored.
    rate: Rate | None
    # Limitations of the rate, in sentences; often empty.
    note: str = ""


@dataclass(frozen=True)
class Rates:
    """The result of `rate`."""

    # Accuracy of the calls, used for the correction.
    errors: CallAccuracy
    # In the order of the groups table. Fields and mice are empty if no column names them.
    fields: tuple[Unit, ...]
    mice: tuple[Unit, ...]
    groups: tuple[Unit, ...]
    # Every other group compared with the reference group.
    comparisons: tuple[GroupDifference, ...]
    # Recordings that are missing from the groups table or from the calls.
    without_group: Excluded
    without_call: Excluded
    # What was answered in a review, and what is known of recordings without a call, in a sentence
    # each; often empty.
    review: str = ""
    left_out: str = ""
    # Whether the model has learned from simulated recordings only, and whether these are, too.
    simulated_training: bool = False
    simulated: bool = False
    # Recordings that the model has learned from.
    learned: int = 0

    def sentences(self) -> list[str]:
        """Return notes on how to read the tables."""
        said = [
            f"Group {unit.group}: {unit.note}" if len(self.groups) > 1 else unit.note
            for unit in self.groups
            if unit.note
        ]
        said += [comparison.note for comparison in self.comparisons if comparison.note]
        tests = sum(comparison.welch_p is not None for comparison in self.comparisons)
        if tests > 1:
            said.append(f"{tests} comparisons were made. Multiply each p by {tests} (Bonferroni).")
        # After a review of everything, nothing is left to correct.
        is_known = all(unit.known == unit.rate.scored for unit in self.groups if unit.rate)
        lead = [] if is_known else [f"Corrected for {self.errors}."]
        if self.review:
            lead.append(self.review)
        if not is_known:
            lead += filter(None, [notes.on_groups(self.errors)])
            lead += notes.on_simulated(self.errors, self.simulated_training, self.simulated)
            lead += notes.on_learned(self.learned)
        if self.left_out:
            lead.append(self.left_out)
        return [*lead, *said, *self._sentences_on_rows()]

    def _sentences_on_rows(self) -> Iterator[str]:
        rates = [unit.rate for unit in (self.mice or self.fields) if unit.rate]
        unresolved = sum(not rate.resolvable for rate in rates)
        if unresolved:
            kind = "mice" if self.mice else "fields"
            yield (
                f"The rate is not distinguishable from 0 in {unresolved} of {len(rates)} {kind}."
            )
        empty = [unit.mouse for unit in self.mice if unit.rate is None]
        if empty:
            yield f"Mice without a scored recording are left out of the groups: {listed(empty)}."
        for excluded, source in (
            (self.without_group, "the groups table"),
            (self.without_call, "the calls"),
        ):
            if excluded.count:
                yield (
                    f"{excluded.count:,} recordings are left out because they are missing from "
                    f"{source}: {excluded}."
                )


def rate(
    calls: str | Path,
    groups: str | Path,
    errors: CallAccuracy,
    *,
    reference: str | None = None,
    answers: Mapping[str, str] | None = None,
) -> Rates:
    """Compute stall rates of fields, mice and groups, and compare the groups.

    Parameters
    ----------
    calls : str or Path
        ``predictions.csv`` of `stallscan predict`.
    groups : str or Path
        A table in the format of `groups_table.read_groups`.
    errors : CallAccuracy
        Sensitivity and specificity of these calls (same bundle, same threshold).
    reference : str, optional
        The group that the others are compared with. By default the first in the table.
    answers : mapping, optional
        What people answered, as in `corrections.apply`. These calls are known to be right; the
        correction applies to the wrong calls that are expected to remain, see `reviewed`.

    Raises
    ------
    InputError
        If a file is missing; if no recording is in both tables, or none of those is called flowing
        or stalled; if the errors were measured on calls that were made in another way; or if the
        group `reference` does not exist.
    TableError
        If a table is malformed. The message names the rows.
    """
    calls, groups = Path(calls), Path(groups)
    run = read_run(calls)
    joined = _join(calls, groups, answers or {})
    table = joined.table
    is_open = ~table["call"].isin(DECIDED) & (table["answer"] == "")
    refuse_other_calls(calls, table[table["called"].isin(DECIDED)], run, errors)
    fields = _count(table, ["field", "mouse", "group"]) if "field" in table else []
    mice = _count(table, ["mouse", "group"]) if "mouse" in table else []
    group_units, comparisons = _groups(table, mice, errors, reference)
    return Rates(
        errors=errors,
        fields=tuple(_unit(counts, errors) for counts in fields),
        mice=tuple(_unit(counts, errors) for counts in mice),
        review=notes.on_review(table, errors),
        left_out=notes.on_left_out(errors, int(is_open.sum())),
        groups=group_units,
        comparisons=comparisons,
        without_group=joined.without_group,
        without_call=joined.without_call,
        simulated_training=is_simulated(run),
        simulated=of_simulated(run),
        learned=int((was_learned(table) & (table["answer"] == "")).sum()),
    )


class _Joined(NamedTuple):
    """Calls with their field, mouse and group, in the order of the groups table."""

    table: pd.DataFrame  # of `corrections.apply`, with those of `COLUMNS` that exist and group
    # Recordings that are missing from one of the tables.
    without_group: Excluded
    without_call: Excluded


def _join(calls: Path, groups: Path, answers: Mapping[str, str]) -> _Joined:
    predictions, units = read_predictions(calls), read_groups(groups)
    warn_if_unfinished(calls, read_run(calls), len(predictions))
    predictions = corrections.apply(predictions, answers).table
    partner = match(predictions["filename"], units["filename"], groups)
    # partner: the filename in the groups table, which may have another folder.
    grouped = predictions.assign(partner=partner).dropna(subset="partner")
    table = grouped.merge(
        units.rename(columns={"filename": "partner"}), on="partner", validate="one_to_one"
    )
    if table.empty:
        difference = contrast(predictions["filename"].tolist(), units["filename"].tolist())
        raise InputError(
            f"{calls} and {groups} have no recording in common ({difference}). Give the groups "
            "table of these recordings"
        )
    if not table["call"].isin(DECIDED).any():
        counts = table["call"].value_counts()
        raise InputError(
            f"{calls}: none of the {len(table):,} recordings in {groups} is called flowing or "
            f"stalled ({', '.join(f'{count:,} {call}' for call, count in counts.items())}). See "
            "the column reason"
        )
    if "group" not in table:
        table, units = table.assign(group=ONE_GROUP), units.assign(group=ONE_GROUP)
    # Groups, mice and fields keep the order of the groups table, not that of the calls.
    order = pd.Series(range(len(units)), index=units["filename"])
    table = table.sort_values("partner", key=lambda names: names.map(order))
    is_called = units["filename"].isin(partner.dropna())
    return _Joined(
        table,
        Excluded.of(predictions.loc[partner.isna(), "filename"].tolist()),
        Excluded.of(units.loc[~is_called, "filename"].tolist()),
    )


@dataclass(frozen=True)
class _Counts:
    """Numbers of recordings of one field, mouse or group."""

    names: dict[str, str]
    tally: Tally
    review: int
    unscorable: int

    @property
    def stalled(self) -> int:
        return int(self.tally.stalled)

    @property
    def scored(self) -> int:
        return int(self.tally.scored)


def _count(table: pd.DataFrame, levels: list[str]) -> list[_Counts]:
    """Count the calls of each unit of the first level; further levels are those it belongs to."""
    levels = [level for level in levels if level in table]
    counted = []
    for _, rows in table.groupby(levels[0], sort=False):
        calls = rows["call"].value_counts()
        counted.append(
            _Counts(
                names={level: str(rows[level].iloc[0]) for level in levels},
                tally=tally(rows),
                review=int(calls.get("review", 0)),
                unscorable=int(calls.get("unscorable", 0)),
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
    # A group with a scored recording has a mouse with one, if the mice are known.
    tested = [counts.names["group"] for counts in counted if counts.scored]
    first = reference or tested[0]
    if first not in tested:
        raise InputError(
            f"group {first} has no scored recording. Choose one of {listed(tested)} with "
            "--reference"
        )
    if not mice:
        return tuple(
            _unit(counts, errors, notes.without_mice(counts.scored)) for counts in counted
        ), ()
    units = tuple(
        _group_unit(counts, members[name], errors)
        for name, counts in zip(names, counted, strict=True)
    )
    stalled = {name: [mouse.stalled for mouse in members[name]] for name in tested}
    scored = {name: [mouse.scored for mouse in members[name]] for name in tested}
    accuracy = {name: _accuracy(members[name], errors) for name in tested}
    each = {name: _accuracy_of_each(members[name], errors) for name in tested}
    return units, tuple(
        compare(
            (first, name),
            (stalled[first], stalled[name]),
            (scored[first], scored[name]),
            (accuracy[first], accuracy[name]),
            (each[first], each[name]),
        )
        for name in tested
        if name != first
    )


def _accuracy(members: list[_Counts], errors: CallAccuracy) -> CallAccuracy:
    """Return the accuracy after the review, which is estimated for a group as a whole."""
    return after(errors, balance([member.tally for member in members]))


def _accuracy_of_each(members: list[_Counts], errors: CallAccuracy) -> list[CallAccuracy]:
    """Return the accuracy of each mouse after the review; empty if they do not differ."""
    each = [after(errors, member.tally) for member in members]
    return each if any(one != each[0] for one in each) else []


def _group_unit(counts: _Counts, mice: list[_Counts], errors: CallAccuracy) -> Unit:
    unit = _unit(counts, errors)
    if not mice or unit.rate is None:
        return unit
    pooled = after(errors, counts.tally)
    each, errors = _accuracy_of_each(mice, errors), _accuracy(mice, errors)
    mean = corrected_mean(
        [mouse.stalled for mouse in mice], [mouse.scored for mouse in mice], errors, each
    )
    if len(mice) == 1:
        note = "The group has one mouse, so its rate has no interval. "
        note += _limitation(unit.rate, pooled)
    else:
        note = notes.impossible(mean, errors)
    # A note on the pooled recordings is given only if it also holds for the mean over mice.
    if not note and not mean.resolvable:
        note = notes.unresolved(unit.rate, pooled)
        note = note or "The mice differ too much to distinguish their mean from 0."
    return replace(unit, mice=len(mice), rate=mean, note=_with_open(note.strip(), counts))


def _unit(counts: _Counts, errors: CallAccuracy, note: str = "") -> Unit:
    errors = after(errors, counts.tally)
    rate = corrected(counts.stalled, counts.scored, errors) if counts.scored else None
    limitation = _limitation(rate, errors) if rate else "No recording was scored."
    return Unit(
        field=counts.names.get("field", ""),
        mouse=counts.names.get("mouse", ""),
        group=counts.names.get("group", ""),
        mice=0,
        review=counts.review,
        unscorable=counts.unscorable,
        known=int(counts.tally.reviewed),
        rate=rate,
        note=_with_open(f"{note} {limitation}".strip(), counts),
    )


def _limitation(rate: Rate, errors: CallAccuracy) -> str:
    return notes.impossible(rate, errors) or notes.unresolved(rate, errors)


def _with_open(note: str, counts: _Counts) -> str:
    return f"{note} {notes.left_open(counts.review, counts.scored)}".strip()


def refuse_other_calls(
    calls: Path, table: pd.DataFrame, run: Mapping[str, Any], errors: CallAccuracy
) -> None:
    """Refuse calls that were made in another way than the measured ones.

    `table` has the calls at the path `calls`, and `run` is the ``run.json`` beside it.
    """
    for setting, measured, used in (
        ("bundle", errors.bundles, sorted(set(table["bundle"]))),
        ("threshold", errors.thresholds, sorted(set(table["threshold"].dropna()))),
    ):
        if measured and set(used) - set(measured):
            raise InputError(
                f"{calls}: the calls were made with {setting} {listed([*map(str, used)])}, but "
                "sensitivity and specificity were measured with "
                f"{listed([*map(str, measured)])}. Evaluate these calls, or give --sensitivity "
                "and --specificity"
            )
    made = made_by(run)
    # What is unknown of either is not compared.
    changed = [
        words
        for name, words in MADE_BY.items()
        if name in made and name in errors.made_by and made[name] != errors.made_by[name]
    ]
    if changed:
        raise InputError(
            f"{calls}: sensitivity and specificity were measured on calls with "
            f"{enumerated(changed)}. Evaluate these calls, or give --sensitivity and --specificity"
        )
