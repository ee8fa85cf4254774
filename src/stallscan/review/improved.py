"""What a bundle's further training changed: the calls of one run before and after it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stallscan import __version__, files, templates
from stallscan.calls.predictions import read_predictions
from stallscan.catalog import tables
from stallscan.errors import InputError
from stallscan.review.sample import sample_size
from stallscan.scores.intervals import wilson
from stallscan.words import counted, percent

CHANGES_NAME, PAGE_NAME = "changes.csv", "changes.html"
CALLS = ("stalled", "flowing", "review", "unscorable")
MOST_SHOWN = 200  # changed recordings on the page; the table has all
# Chosen: half the width of an interval of the sensitivity that is good enough.
WITHIN = 0.1
# Recordings, far more than anybody answers: the interval is that of a sample of all there could be.
MANY = 100_000
ANSWERED = {0: "flowing", 1: "stalled"}


@dataclass(frozen=True)
class Improved:
    """The calls before and after.

    Attributes
    ----------
    table : DataFrame
        A row for each recording: filename, call_before, call_after, score_before, score_after,
        answer (stalled, flowing or empty), and use: ``trained`` for answers that the training saw,
        ``held out`` for the others, empty without an answer.
    single : int
        Recordings that are in one of the two runs only, and not in the table.
    """

    table: pd.DataFrame
    single: int = 0

    @classmethod
    def read(
        cls, before: Path, after: Path, labels: pd.DataFrame, held_out: Collection[str]
    ) -> "Improved":
        """Join two tables of predictions of the same recordings.

        Parameters
        ----------
        before, after : Path
            The tables of predictions.
        labels : DataFrame
            filename, stalled (0 or 1): the answers.
        held_out : collection of str
            The answered recordings that the training did not see.

        Raises
        ------
        InputError
            If the tables have no recording in common.
        """
        columns = ["filename", "call", "score"]
        old, new = (read_predictions(path)[columns] for path in (before, after))
        table = old.merge(new, on="filename", suffixes=("_before", "_after"))
        if table.empty:
            raise InputError(f"{after}: has no recording in common with {before}")
        answers = labels.set_index("filename")["stalled"].map(ANSWERED)
        table["answer"] = table["filename"].map(answers).fillna("")
        uses = [
            "" if not answer else "held out" if filename in held_out else "trained"
            for filename, answer in zip(table["filename"], table["answer"], strict=True)
        ]
        return cls(table.assign(use=uses), len(old) + len(new) - 2 * len(table))

    @property
    def changed(self) -> pd.DataFrame:
        """The recordings with another call, those whose score moved most first."""
        table = self.table[self.table["call_before"] != self.table["call_after"]]
        moved = (table["score_after"] - table["score_before"]).abs()
        return table.loc[moved.sort_values(ascending=False, kind="stable").index]

    def counts(self) -> pd.DataFrame:
        """Return the number of recordings by call before (rows) and after (columns)."""
        every = pd.crosstab(self.table["call_before"], self.table["call_after"])
        seen = [call for call in CALLS if call in every.index or call in every.columns]
        others = sorted({*every.index, *every.columns} - set(CALLS))
        return every.reindex(index=seen + others, columns=seen + others, fill_value=0)

    def agreement(self, use: str) -> tuple[int, int, int]:
        """Return how many answers have a `use`, and how many calls agree before and after."""
        rows = self.table[self.table["use"] == use]
        return (
            len(rows),
            int((rows["call_before"] == rows["answer"]).sum()),
            int((rows["call_after"] == rows["answer"]).sum()),
        )

    def sentences(self) -> list[str]:
        """Return what changed, in words."""
        changed = self.changed
        said = [f"{len(changed):,} of {len(self.table):,} recordings have another call."]
        if self.single:
            said.append(
                f"{counted(self.single, 'recording')} under names that only one of the two runs "
                "has cannot be compared."
            )
        if len(changed):
            now = changed["call_after"].value_counts()
            parts = [f"{now[call]:,} {call}" for call in CALLS if call in now]
            said.append(f"Of these, now called: {', '.join(parts)}.")
        count, before, after = self.agreement("held out")
        if count:
            said.append(
                f"Of the {count:,} answered recordings that were held out from training, the calls "
                f"agree with {before:,} before and {after:,} after."
            )
            said.append(self._say_sensitivity())
        return said

    def _say_sensitivity(self) -> str:
        """Say how well the sensitivity after the training is known, from the answers held out."""
        is_stalled = (self.table["use"] == "held out") & (self.table["answer"] == "stalled")
        calls = self.table.loc[is_stalled, "call_after"]
        if calls.empty:
            return "None of them is stalled, so the sensitivity is unknown."
        found = int((calls == "stalled").sum())
        share, low, high = map(percent, wilson(found, len(calls)))
        said = (
            f"Found after: {found:,} of {len(calls):,} stalled among them, a sensitivity of "
            f"{share} (95 % interval {low} to {high})."
        )
        needed = sample_size(WITHIN, MANY, 0.5)  # at 0.5 the interval is widest
        if len(calls) < needed:
            said += (
                f" For an interval of at most plus or minus {percent(WITHIN)}, {needed:,} stalled "
                "ones are needed."
            )
        return said


def write(improved: Improved, out: Path, figures: Sequence[tuple[str, str, str]]) -> Path:
    """Write the table and the page of what changed; return the page.

    Parameters
    ----------
    improved : Improved
        The calls before and after.
    out : Path
        The folder.
    figures : sequence of tuple of str
        Name, value before and value after of each figure on the held-out recordings.
    """
    tables.write_table(improved.table, out / CHANGES_NAME)
    counts = improved.counts()
    changed = improved.changed
    sheets = [
        _sheet(
            "On the answered recordings that were held out",
            ["", "before", "after"],
            [list(row) for row in figures],
            "Each at the threshold of its bundle; the calls below are for the prevalence of the "
            "run. Recordings chosen for review because the model was uncertain are harder than "
            "the others.",
        ),
        _sheet(
            "Calls of all recordings",
            ["before", *(f"now {call}" for call in counts.columns)],
            [[str(call), *(f"{count:,}" for count in row)] for call, row in counts.iterrows()],
        ),
        _sheet(
            "Recordings with another call",
            ["recording", "before", "after", "score before", "score after", "answer"],
            [_changed_row(row) for row in changed.head(MOST_SHOWN).to_dict("records")],
            f"The first {MOST_SHOWN:,} of {len(changed):,}. {CHANGES_NAME} has all."
            if len(changed) > MOST_SHOWN
            else "",
        ),
    ]
    text = templates.render(
        "improved.html.j2", said=improved.sentences(), sheets=sheets, version=__version__
    )
    files.write_text(out / PAGE_NAME, text)
    return out / PAGE_NAME


def _sheet(title: str, head: list[str], rows: list[list[str]], note: str = "") -> dict[str, Any]:
    return {"title": title, "head": head, "rows": rows, "note": note}


def _changed_row(row: dict[Any, Any]) -> list[str]:
    scores = [
        "" if row[name] != row[name] else f"{row[name]:.3f}"
        for name in ("score_before", "score_after")
    ]
    answer = f"{row['answer']} ({row['use']})" if row["answer"] else ""
    return [row["filename"], row["call_before"], row["call_after"], *scores, answer]
