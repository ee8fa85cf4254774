"""Calls corrected by people: their answers in place of the calls of a table of predictions."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from stallscan.calls.predictions import DECIDED

# What people may say of a recording; the same words as in the column call.
ANSWERS = (*DECIDED, "unscorable")


@dataclass(frozen=True)
class Corrected:
    """A table with corrected calls, and how many there are."""

    # As from `read_predictions`, with `call` replaced where there is an answer, `called` (str: the
    # call before) and `answer` (str: one of `ANSWERS`, empty if there is none).
    table: pd.DataFrame
    answered: int  # recordings of the table with an answer
    changed: int  # of these, those with another call than before
    unknown: int  # answers for recordings that are not in the table

    @property
    def agreed(self) -> int:
        """Answered recordings whose call was confirmed."""
        return self.answered - self.changed

    def __str__(self) -> str:
        text = (
            f"{self.answered:,} of {len(self.table):,} recordings were answered in the review: "
            f"{self.changed:,} calls corrected, {self.agreed:,} confirmed"
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
    return Corrected(
        table.assign(call=call, called=table["call"], answer=answer),
        answered=int(is_answered.sum()),
        changed=int((call != table["call"]).sum()),
        unknown=len(set(answers) - set(table["filename"])),
    )
