"""From answers to labels: one row for each recording on which reviewers agree by a rule."""

import collections
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from stallscan.catalog import tables
from stallscan.errors import InputError
from stallscan.review.answers import NAME, Answers, Given

Rule = Literal["majority", "latest", "expert"]
VOTES = {"stalled": 1, "flowing": 0}
COLUMNS = ("filename", "stalled", "stalled_votes", "flowing_votes", "reviewers", "rule", "given_at")


class Written(NamedTuple):
    """Summary of a table of labels."""

    path: Path
    labelled: int
    stalled: int
    undecided: int  # answered, but without a label by the rule
    checks: int = 0  # answers to recordings that were mixed in because their label is known

    def __str__(self) -> str:
        text = f"{self.labelled:,} labels, {self.stalled:,} stalled"
        if self.undecided:
            text += (
                f"; {self.undecided:,} other recordings have answers but no label (unsure, cannot "
                "be scored, broken, or no majority)"
            )
        if self.checks:
            text += (
                f"; {self.checks:,} answers left out, because they check the reviewer against "
                "labels that are known"
            )
        return text


def write_labels(
    folder: Path, out: Path, rule: Rule = "majority", experts: Collection[str] = ()
) -> Written:
    """Write the labels that follow from the answers in a folder.

    Answers to recordings that were mixed in to check the reviewer are left out: these recordings
    have a label, and half of them are stalled, far more than among the others.

    Parameters
    ----------
    folder : Path
        The folder that was reviewed.
    out : Path
        The CSV file: filename, stalled (0 or 1), the votes of both kinds, who answered, the rule,
        and when the last answer was given.
    rule : str
        ``majority``: more votes for one label than for the other; ``latest``: the last vote;
        ``expert``: the last vote of an expert where one answered, otherwise the majority.
    experts : collection of str
        Names of the experts.

    Raises
    ------
    InputError
        If there are no answers, or the rule is expert and none of the experts answered.
    """
    if not (folder / NAME).is_file():
        raise InputError(f"{folder}: has no answers. Review it first: stallscan review {folder}")
    answers = Answers(folder).current()
    if rule == "expert":
        unknown = set(experts) - {given.reviewer for given in answers}
        if unknown or not experts:
            names = ", ".join(sorted({given.reviewer for given in answers}))
            raise InputError(
                f"{folder}: name the experts by --expert NAME; the reviewers are {names or 'none'}"
            )
    checks = sum(given.is_check for given in answers)
    table = decide(answers, rule, experts)
    labelled = table[table["stalled"] >= 0]
    if labelled.empty:
        raise InputError(
            f"{folder}: no recording has a label by the rule {rule}. Answer more of them"
        )
    tables.write_table(labelled, out)
    stalled = int(labelled["stalled"].sum())
    return Written(out, len(labelled), stalled, len(table) - len(labelled), checks)


def decide(answers: Sequence[Given], rule: Rule, experts: Collection[str] = ()) -> pd.DataFrame:
    """Return a row for each answered recording, with `COLUMNS`; ``stalled`` is -1 if undecided.

    Parameters
    ----------
    answers : sequence of Given
        The current answers, oldest first. Those that check the reviewer do not count.
    rule, experts
        As in `write_labels`.
    """
    by_name: dict[str, list[Given]] = collections.defaultdict(list)
    for given in answers:
        if not given.is_check:
            by_name[given.filename].append(given)
    rows = []
    for filename, every in by_name.items():
        votes = [given for given in every if given.answer in VOTES]
        ours = [given for given in votes if given.reviewer in experts]
        stalled = sum(VOTES[given.answer] for given in votes)
        flowing = len(votes) - stalled
        if votes and rule == "latest":
            label = VOTES[votes[-1].answer]
        elif ours and rule == "expert":
            label = VOTES[ours[-1].answer]
        else:
            label = -1 if stalled == flowing else int(stalled > flowing)
        reviewers = "; ".join(sorted({given.reviewer for given in every}))
        rows.append((filename, label, stalled, flowing, reviewers, rule, every[-1].given_at))
    return pd.DataFrame(rows, columns=list(COLUMNS))
