"""Calls corrected by people: their answers in place of the calls of a table of predictions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from stallscan.calls.predictions import DECIDED
from stallscan.words import counted, listed

log = logging.getLogger("stallscan")

# What people may say of a recording; the same words as in the column call.
ANSWERS = (*DECIDED, "unscorable")


class Verdicts(NamedTuple):
    """How many of the answered recordings have each outcome of a review."""

    confirmed: int  # the answer is the call
    overturned: int  # the model said stalled or flowing, and the answer is something else
    decided: int  # the model left it open (`review` or `unscorable`), and the answer is another

    @property
    def answered(self) -> int:
        """All answered recordings."""
        return sum(self)

    def __str__(self) -> str:
        text = f"{counted(self.overturned, 'call')} overturned, {self.confirmed:,} confirmed"
        if self.decided:
            text += f", {self.decided:,} decided that the model left open"
        return text


@dataclass(frozen=True)
class Corrected:
    """A table with corrected calls, and how many there are."""

    # As from `read_predictions`, with `call` replaced where there is an answer, `called` (str: the
    # call before) and `answer` (str: one of `ANSWERS`, empty if there is none).
    table: pd.DataFrame
    verdicts: Verdicts
    unknown: int  # answers for recordings that are not in the table

    @property
    def answered(self) -> int:
        """Recordings of the table with an answer."""
        return self.verdicts.answered

    def __str__(self) -> str:
        text = (
            f"{self.answered:,} of {len(self.table):,} recordings were answered in the review: "
            f"{self.verdicts}"
        )
        if self.unknown:
            text += f"; {self.unknown:,} answers are for recordings that are not in the table"
        return text


def apply(table: pd.DataFrame, answers: Mapping[str, str]) -> Corrected:
    """Replace the calls of recordings that people answered.

    Parameters
    ----------
    table : DataFrame
        From `read_predictions`; it is not changed.
    answers : mapping
        One of `ANSWERS` by filename, as in the table.
    """
    answer = pd.Series(
        [answers.get(name, "") for name in table["filename"]], table.index, dtype=str
    )
    is_answered = answer != ""
    call = table["call"].where(~is_answered, answer)
    unknown = sorted(set(answers) - set(table["filename"]))
    if unknown:
        log.warning(
            "%s not used, because the table has no recording of this name: %s",
            counted(len(unknown), "answer") + " of the review",
            listed(unknown),
        )
    table = table.assign(call=call, called=table["call"], answer=answer)
    return Corrected(table, count(table), len(unknown))


def count(table: pd.DataFrame) -> Verdicts:
    """Count the answered recordings of a table of `apply`, or of a part of it."""
    answered = table[table["answer"] != ""]
    is_same = answered["answer"] == answered["called"]
    was_called = answered["called"].isin(DECIDED)
    numbers = is_same, ~is_same & was_called, ~is_same & ~was_called
    return Verdicts(*(int(number.sum()) for number in numbers))


def verdict(called: str, answer: str) -> str:
    """Say what a review did with the call of a recording; empty if it was not answered."""
    if not answer:
        return ""
    if answer == called:
        return "confirmed in the review"
    if called in DECIDED:
        return f"overturned in the review; the model said {called}"
    return f"decided in the review; the model said {called}"
