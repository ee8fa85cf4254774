"""From answers to labels: one row for each recording on which reviewers agree by a rule."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from stallscan.catalog import tables
from stallscan.catalog.names import match
from stallscan.errors import InputError
from stallscan.files import refuse_foreign
from stallscan.rates.groups_table import read_groups
from stallscan.review.answers import Answers, Given
from stallscan.runs import ANSWERS_NAME
from stallscan.stamps import Stamp
from stallscan.words import listed

Rule = Literal["majority", "latest", "expert"]
LABELS_NAME = "labels.csv"
VOTES = {"stalled": 1, "flowing": 0}
# What each answer says of a call. Whoever is unsure says nothing.
CALLS = {
    "stalled": "stalled",
    "flowing": "flowing",
    "unscorable": "unscorable",
    "broken": "unscorable",
}
COLUMNS = ("filename", "stalled", "stalled_votes", "flowing_votes", "reviewers", "rule", "given_at")


class Written(NamedTuple):
    """Summary of a table of labels."""

    path: Path
    labelled: int
    stalled: int
    undecided: int  # answered, but without a label by the rule
    checks: int  # answers to recordings that were mixed in because their label is known
    answers: tuple[Given, ...]  # from which the labels follow

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
    folder: Path,
    out: Path,
    rule: Rule = "majority",
    experts: Collection[str] = (),
    mice: Path | None = None,
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
        ``majority``: the most votes, as in `most_votes`; ``latest``: the last vote;
        ``expert``: the last vote of an expert where one voted, otherwise the majority. Where the
        vote is that a recording cannot be scored, it has no label.
    experts : collection of str
        Names of the experts.
    mice : Path, optional
        Table with columns filename and mouse; the labels then have a column mouse, too.

    Raises
    ------
    InputError
        If there are no answers, the rule is expert and none of the experts answered, or `mice`
        is not as `read_groups` wants it, or lacks the column or a labelled recording.
    """
    if not (folder / ANSWERS_NAME).is_file():
        raise InputError(f"{folder}: has no answers. Review it first: stallscan review {folder}")
    refuse_foreign(out, [",".join(COLUMNS)], "a table of labels")
    reviewed = Answers(folder)
    answers = reviewed.current()
    if rule == "expert":
        experts = [reviewed.spelled(name) for name in experts]
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
            f"{folder}: no recording has a label by the rule {rule}. Answer some with "
            f"'stallscan review {folder}'"
        )
    if mice is not None:
        labelled = labelled.assign(mouse=_mice_of(labelled["filename"], mice))
    tables.write_table(labelled, out)
    stalled = int(labelled["stalled"].sum())
    undecided = len(table) - len(labelled)
    return Written(out, len(labelled), stalled, undecided, checks, tuple(answers))


def read_corrections(folder: Path, stamps: Mapping[str, Stamp] | None = None) -> dict[str, str]:
    """Return the corrected calls that follow from the answers in a folder, by filename.

    They have the most votes, as in `most_votes`; recordings without such a call are left out.
    Empty if nothing was reviewed.

    Parameters
    ----------
    folder : Path
        The folder that was reviewed.
    stamps : mapping, optional
        The stamps of the files that were called, as `Answers` takes them.

    Raises
    ------
    InputError
        If the answers cannot be read.
    """
    if not (folder / ANSWERS_NAME).is_file():
        return {}
    by_name = by_recording(Answers(folder, stamps).current())
    calls = {filename: most_votes(every) for filename, every in by_name.items()}
    return {filename: call for filename, call in calls.items() if call}


def most_votes(answers: Iterable[Given]) -> str:
    """Return what most answers to one recording say; empty if there is a tie, or no vote.

    It is stalled, flowing or unscorable (cannot be scored, or broken). Unsure is no vote.
    """
    votes = Counter(CALLS[given.answer] for given in answers if given.answer in CALLS)
    first, second = [*votes.most_common(2), ("", 0), ("", 0)][:2]
    return first[0] if first[1] > second[1] else ""


def decide(answers: Sequence[Given], rule: Rule, experts: Collection[str] = ()) -> pd.DataFrame:
    """Return a row for each answered recording, with `COLUMNS`; ``stalled`` is -1 if undecided.

    Parameters
    ----------
    answers : sequence of Given
        The current answers, oldest first. Those that check the reviewer do not count.
    rule, experts
        As in `write_labels`.
    """
    rows = []
    for filename, every in by_recording(answers).items():
        cast = [given for given in every if given.answer in CALLS]
        ours = [given for given in cast if given.reviewer in experts]
        if cast and rule == "latest":
            decided = cast[-1].answer
        elif ours and rule == "expert":
            decided = ours[-1].answer
        else:
            decided = most_votes(every)
        label = VOTES.get(decided, -1)
        counts = Counter(given.answer for given in every)
        reviewers = "; ".join(sorted({given.reviewer for given in every}))
        last = every[-1].given_at
        votes = (counts["stalled"], counts["flowing"])
        rows.append((filename, label, *votes, reviewers, rule, last))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_recording(answers: Iterable[Given]) -> defaultdict[str, list[Given]]:
    """Return the answers to each recording, without those that check the reviewer."""
    by_name: defaultdict[str, list[Given]] = defaultdict(list)
    for given in answers:
        if not given.is_check:
            by_name[given.filename].append(given)
    return by_name


def _mice_of(filenames: "pd.Series[str]", path: Path) -> list[str]:
    """Return the mouse of each recording, from a table."""
    table = read_groups(path)
    if "mouse" not in table:
        raise InputError(f"{path}: has no column mouse. Add it, with the mouse of each recording")
    mouse_of = dict(zip(table["filename"], table["mouse"], strict=True))
    partners = match(filenames, table["filename"], path)
    missing = filenames[partners.isna()].tolist()
    if missing:
        raise InputError(
            f"{path}: lacks {len(missing):,} of {len(filenames):,} labelled recordings: "
            f"{listed(missing)}. Add their rows"
        )
    return [mouse_of[partner] for partner in partners]
