"""Rates as CSV files and as tables for the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table
from rich.text import Text

from stallscan import runs
from stallscan.files import refuse_foreign, write_text
from stallscan.rates.correction import GroupDifference, Rate
from stallscan.rates.rates import Rates, Unit
from stallscan.scores.metrics import Interval
from stallscan.words import counted, percent

# Columns of every table of rates. Cells are empty if there is no rate or no interval.
RATE_COLUMNS = (
    "stalled",
    "scored",
    "called_rate",
    "called_low",
    "called_high",
    "rate",
    "low",
    "high",
    "rate_unclipped",
    "resolvable",
)
COMPARISON_COLUMNS = (
    "first",
    "second",
    "first_mice",
    "second_mice",
    "difference",
    "low",
    "high",
    "welch_p",
    "permutation_p",
    "note",
)


def write_rates(rates: Rates, out: str | Path) -> list[Path]:
    """Write the tables of `rates` into the folder `out`, and return their paths."""
    with runs.hold(out) as folder:
        written = {folder / name: table for name, table in as_frames(rates).items()}
        # Check all files before replacing the first.
        for path, table in written.items():
            # Tables of earlier versions, which lack a column, may be replaced, too.
            heads = (table.columns, table.columns.drop("known", errors="ignore"))
            marks = [",".join(columns) + "\n" for columns in heads]
            refuse_foreign(path, marks, "a table of 'stallscan rate'")
        for path, table in written.items():
            write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return list(written)


def as_frames(rates: Rates) -> dict[str, pd.DataFrame]:
    """Return the rates as tables by file name; shares are 0 to 1."""
    return {
        "rates_fields.csv": _unit_table(rates.fields, ("field", "mouse", "group")),
        "rates_mice.csv": _unit_table(rates.mice, ("mouse", "group")),
        "rates_groups.csv": _unit_table(rates.groups, ("group", "mice")),
        "comparison.csv": _comparison_table(rates.comparisons),
    }


class Sheet(NamedTuple):
    """A table as text, for the terminal and for the page."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def headlines(rates: Rates) -> list[str]:
    """Say the rate of each group and the difference between groups in one sentence each."""
    said = []
    for unit in rates.groups:
        if unit.rate is None:
            continue
        of = counted(unit.rate.scored, "recording")
        if unit.mice:
            of += f" of {unit.mice} {'mouse' if unit.mice == 1 else 'mice'}"
        name = f"{unit.group}: " if len(rates.groups) > 1 else ""
        if unit.rate.impossible:
            said.append(f"{name}no rate: sensitivity and specificity do not hold here ({of}).")
            continue
        within = _percent_range(unit.rate.interval)
        within = "no interval" if unit.rate.interval is None else f"95 % interval {within}"
        said.append(f"{name}{percent(unit.rate.estimate)} stalled ({within}; {of}).")
    for comparison in rates.comparisons:
        within = ""
        if comparison.interval is not None and comparison.welch_p is not None:
            interval = _percent_range(comparison.interval, "points")
            within = f" ({interval}), p = {comparison.welch_p:.2g}"
        said.append(
            f"{comparison.second} minus {comparison.first}: "
            f"{_points(comparison.difference)}{within}."
        )
    return said


def sheets(rates: Rates, every: bool = True) -> list[Sheet]:
    """Return the tables of groups, comparisons and, with `every`, mice and fields, as text."""
    made = [_unit_sheet("group", rates.groups)]
    if rates.comparisons:
        made.append(_comparison_sheet(rates.comparisons))
    if every and rates.mice:
        made.append(_unit_sheet("mouse", rates.mice))
    if every and rates.fields:
        made.append(_unit_sheet("field", rates.fields))
    return made


def as_tables(rates: Rates, every: bool = True) -> list[Table]:
    """Return `sheets` as tables for the terminal."""
    tables = []
    for sheet in sheets(rates, every):
        table = Table(*sheet.head, caption=sheet.note or None)
        for row in sheet.rows:
            # Text instead of markup, because a name may contain brackets.
            table.add_row(*map(Text, row))
        tables.append(table)
    return tables


def _points(difference: float) -> str:
    # Equal rates may differ by a rounding error.
    return f"{100 * round(difference, 9) + 0.0:+.3g} points"


def _unit_table(units: Sequence[Unit], columns: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {column: getattr(unit, column) for column in columns}
        | rate_cells(unit.rate)
        | {"review": unit.review, "unscorable": unit.unscorable, "known": unit.known}
        | {"note": unit.note}
        for unit in units
    ]
    others = ("review", "unscorable", "known", "note")
    return pd.DataFrame(rows, columns=[*columns, *RATE_COLUMNS, *others])


def rate_cells(rate: Rate | None) -> dict[str, Any]:
    """Return the cells of `RATE_COLUMNS`, as far as there is a rate."""
    if rate is None:
        return {"stalled": 0, "scored": 0}
    values = (
        *(rate.stalled, rate.scored, rate.naive, *(rate.naive_interval or (None, None))),
        *(rate.estimate, *(rate.stated_interval or (None, None))),
        *(rate.unclipped, rate.resolvable),
    )
    return dict(zip(RATE_COLUMNS, values, strict=True))


def _comparison_table(comparisons: Sequence[GroupDifference]) -> pd.DataFrame:
    rows = [
        (
            *(comparison.first, comparison.second, *comparison.mice, comparison.difference),
            *(comparison.interval or (None, None)),
            *(comparison.welch_p, comparison.permutation_p, comparison.note),
        )
        for comparison in comparisons
    ]
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _unit_sheet(level: str, units: Sequence[Unit]) -> Sheet:
    head = (
        *(level, "mice" if level == "group" else "group"),
        *("stalled / scored", "left out", "called", "corrected", "95 % interval"),
    )
    rows = []
    for unit in units:
        rate = unit.rate
        row = (
            *(getattr(unit, level), f"{unit.mice or '?'}" if level == "group" else unit.group),
            f"{rate.stalled:,} / {rate.scored:,}" if rate else "0 / 0",
            f"{unit.review + unit.unscorable:,}",
            percent(rate.naive) if rate else "",
            percent(rate.estimate) if rate else "",
            _percent_range(rate.stated_interval) + " *" * _is_low(rate) if rate else "",
        )
        rows.append(row)
    has_low = any(unit.rate and _is_low(unit.rate) for unit in units)
    notes = ["* not distinguishable from 0"] * has_low
    if level == "group" and any((unit.mice or 0) > 1 for unit in units):
        notes.append("called and corrected: means over mice, which count the same")
    note = "; ".join(notes)
    return Sheet({"mouse": "Mice"}.get(level, f"{level.capitalize()}s"), head, rows, note)


def _is_low(rate: Rate) -> bool:
    return not (rate.resolvable or rate.impossible)


def _comparison_sheet(comparisons: Sequence[GroupDifference]) -> Sheet:
    head = ("groups", "mice", "difference", "95 % interval", "p (Welch)", "p (permutation)")
    rows = []
    for comparison in comparisons:
        p_values = (comparison.welch_p, comparison.permutation_p)
        row = (
            f"{comparison.second} minus {comparison.first}",
            f"{comparison.mice[1]} and {comparison.mice[0]}",
            _points(comparison.difference),
            _percent_range(comparison.interval, "points"),
            *("not tested" if p is None else f"{p:.3g}" for p in p_values),
        )
        rows.append(row)
    return Sheet("Differences", head, rows, "")


def _percent_range(interval: Interval | None, unit: str = "%") -> str:
    if interval is None:
        return "none"
    # Three digits of the width: "0.0755 to 100 %" would claim more than is known.
    width = 100 * (interval.high - interval.low)
    decimals = 2 - math.floor(math.log10(width)) if width > 0 else 2
    low, high = (round(100 * end, decimals) for end in interval)
    return f"{low:g} to {high:g} {unit}"
