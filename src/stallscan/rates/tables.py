"""Rates as tables: CSV files and what the console shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from stallscan import runs
from stallscan.files import refuse_foreign, write_text
from stallscan.rates.correction import (
    GroupDifference,
    Rate,
)
from stallscan.rates.rates import Rates, Unit
from stallscan.scores.metrics import Interval
from stallscan.words import percent

# Of every table of rates; empty cells where there is no rate or no interval.
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
    """Write the tables of `rates` into the folder `out`, and return their paths.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    with runs.hold(out) as folder:
        written = {folder / name: table for name, table in as_frames(rates).items()}
        for path, table in written.items():
            refuse_foreign(path, [",".join(table.columns) + "\n"], "a table of 'stallscan rate'")
        for path, table in written.items():
            write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return list(written)


def as_frames(rates: Rates) -> dict[str, pd.DataFrame]:
    """Lay rates out as tables, by the name of their file; shares are 0 to 1."""
    return {
        "rates_fields.csv": _unit_table(rates.fields, ("field", "mouse", "group")),
        "rates_mice.csv": _unit_table(rates.mice, ("mouse", "group")),
        "rates_groups.csv": _unit_table(rates.groups, ("group", "mice")),
        "comparison.csv": _comparison_table(rates.comparisons),
    }


def as_tables(rates: Rates) -> list[Table]:
    """Lay groups, mice and comparisons out for the terminal; fields where no mouse is named."""
    tables = [_rich_units("group", rates.groups)]
    if rates.mice:
        tables.append(_rich_units("mouse", rates.mice))
    elif rates.fields:
        tables.append(_rich_units("field", rates.fields))
    if rates.comparisons:
        tables.append(_rich_comparisons(rates.comparisons))
    return tables


def _unit_table(units: Sequence[Unit], columns: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {column: getattr(unit, column) for column in columns}
        | _rate_cells(unit.rate)
        | {"review": unit.review, "unscorable": unit.unscorable, "note": unit.note}
        for unit in units
    ]
    return pd.DataFrame(rows, columns=[*columns, *RATE_COLUMNS, "review", "unscorable", "note"])


def _rate_cells(made: Rate | None) -> dict[str, Any]:
    if made is None:
        return {"stalled": 0, "scored": 0}
    values = (
        *(made.stalled, made.scored, made.naive, *(made.naive_interval or (None, None))),
        *(made.estimate, *(made.interval or (None, None)), made.unclipped, made.resolvable),
    )
    return dict(zip(RATE_COLUMNS, values, strict=True))


def _comparison_table(comparisons: Sequence[GroupDifference]) -> pd.DataFrame:
    rows = [
        (
            *(one.first, one.second, *one.mice, one.difference),
            *(one.interval or (None, None)),
            *(one.welch_p, one.permutation_p, one.note),
        )
        for one in comparisons
    ]
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _rich_units(level: str, units: Sequence[Unit]) -> Table:
    table = Table(
        level,
        *(["mice"] if level == "group" else ["group"]),
        "stalled / scored",
        "left out",
        "called",
        "corrected",
        "95 % interval",
    )
    for unit in units:
        made = unit.rate
        second = f"{unit.mice or '?'}" if level == "group" else unit.group
        table.add_row(
            # Text, not markup: a name may hold brackets.
            Text(getattr(unit, level)),
            Text(second),
            f"{made.stalled:,} / {made.scored:,}" if made else "0 / 0",
            f"{unit.review + unit.unscorable:,}",
            percent(made.naive) if made else "",
            percent(made.estimate) if made else "",
            _say(made.interval) + ("" if made.resolvable else " *") if made else "",
        )
    if any(unit.rate and not unit.rate.resolvable for unit in units):
        table.caption = "* cannot be told from 0"
    return table


def _rich_comparisons(comparisons: Sequence[GroupDifference]) -> Table:
    table = Table("groups", "mice", "difference", "95 % interval", "p (Welch)", "p (permutation)")
    for one in comparisons:
        table.add_row(
            Text(f"{one.second} less {one.first}"),
            f"{one.mice[1]} and {one.mice[0]}",
            f"{100 * one.difference:+.3g} points",
            _say(one.interval, "points"),
            "not tested" if one.welch_p is None else f"{one.welch_p:.3g}",
            "not tested" if one.permutation_p is None else f"{one.permutation_p:.3g}",
        )
    return table


def _say(interval: Interval | None, unit: str = "%") -> str:
    if interval is None:
        return "none"
    return f"{100 * interval.low:.3g} to {100 * interval.high:.3g} {unit}"
