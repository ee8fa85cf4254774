"""Join metadata and labels to a catalog, and select recordings from it.

A catalog is a pandas DataFrame with the columns of `tables.TRAIN_COLUMNS` and ``stalled`` (0
flowing, 1 stalled), described in docs/facts.md 4. Every function returns rows sorted by filename
and sorts before drawing, so the order of rows in a file never changes a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from stallscan.catalog.tables import read_labels, read_metadata, write_table
from stallscan.errors import InputError, SettingsError, TableError
from stallscan.files import refuse_foreign
from stallscan.words import listed, suggest

# Besides the micro subset, the published selection has at most this many tier1 videos of each
# project (docs/facts.md 2, write-up of the 3rd place).
OTHERS_PER_PROJECT = 500

# Numbers of recordings that the first place and the MATLAB prize trained on (docs/facts.md 3). The
# 51,490 of the first place include all 1,887 stalled ones; how the flowing ones were chosen is not
# published, so we draw them at random.
FIRST_PLACE_COUNT, MATLAB_PRIZE_COUNT = 51490, 13990

# The second place added stalled recordings outside tier1 with a higher crowd score
# (docs/facts.md 3).
TIER2_CROWD_SCORE = 0.6


def join_labels(metadata: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Join `tables.read_metadata` and `tables.read_labels` to a catalog, sorted by filename.

    Raises
    ------
    TableError
        If a recording occurs in only one of the two tables.
    """
    metadata, labels = sorted_by_name(metadata), sorted_by_name(labels)
    described, labelled = metadata["filename"].to_list(), labels["filename"].to_list()
    if described != labelled:
        problems = [
            f"{len(names)} with {what}: {listed(sorted(names))}"
            for names, what in (
                (set(described) - set(labelled), "metadata but no label"),
                (set(labelled) - set(described), "a label but no metadata"),
            )
            if names
        ]
        raise TableError(
            "metadata and labels must name the same recordings, but there are "
            + "; and ".join(problems)
        )
    return metadata.assign(stalled=labels["stalled"])


@dataclass(frozen=True)
class Selection:
    """How many recordings of each class were selected."""

    count: int  # all recordings
    stalled: int  # stalled ones among them

    @classmethod
    def of(cls, catalog: pd.DataFrame) -> "Selection":
        """Count the recordings of a catalog."""
        return cls(len(catalog), int(catalog["stalled"].sum()))

    @property
    def flowing(self) -> int:
        """Number of flowing recordings."""
        return self.count - self.stalled

    @property
    def share_flowing(self) -> float:
        """Share of flowing recordings, 0..1; 0 if there are no recordings."""
        return self.flowing / max(self.count, 1)

    @property
    def class_weight(self) -> float:
        """Weight of a stalled recording in the loss: flowing ones per stalled one.

        Raises
        ------
        InputError
            If there are no recordings, or only recordings of one class.
        """
        if not self.count:
            raise InputError("the selection is empty. Choose another rule or table")
        if not (self.stalled and self.flowing):
            raise InputError(
                f"all {self.count:,} selected recordings are "
                f"{'stalled' if self.stalled else 'flowing'}, and training needs both classes. "
                "Choose another rule or table"
            )
        return self.flowing / self.stalled

    def __str__(self) -> str:
        return (
            f"{self.count:,} recordings, {self.stalled:,} stalled, "
            f"{100 * self.share_flowing:.1f} % flowing, class weight {self.class_weight:.2f}"
        )


def _third_place(catalog: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Select the micro subset and some other tier1 videos of each project (docs/facts.md 2)."""
    tier1 = catalog[catalog["tier1"]]
    others = tier1[~tier1["micro"]]
    shuffled = others.iloc[rng.permutation(len(others))]
    drawn = shuffled.groupby("project_id").head(OTHERS_PER_PROJECT)
    return pd.concat([tier1[tier1["micro"]], drawn])


def _with_tier2_stalls(
    choose: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame],
) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    """Add tier2 stalls with a high crowd score (docs/facts.md 3, second place)."""

    def choose_more(catalog: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        stalled = (catalog["stalled"] == 1) & ~catalog["tier1"]
        sure = stalled & (catalog["crowd_score"] > TIER2_CROWD_SCORE)
        return pd.concat([choose(catalog[~sure], rng), catalog[sure]])

    return choose_more


def _all_stalled_and(
    total: int,
) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    """Select all stalled recordings, and random flowing ones up to a total."""

    def choose(catalog: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        stalled = catalog[catalog["stalled"] == 1]
        flowing = catalog[catalog["stalled"] == 0]
        count = min(max(total - len(stalled), 0), len(flowing))
        return pd.concat([stalled, flowing.iloc[rng.permutation(len(flowing))[:count]]])

    return choose


def _first_place_tier1(catalog: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Select the tier1 recordings of ``first-place``, for its last stage (docs/facts.md 3)."""
    chosen = _all_stalled_and(FIRST_PLACE_COUNT)(catalog, rng)
    return chosen[chosen["tier1"]]


def _flagged(column: str) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    return lambda catalog, rng: catalog[catalog[column]]


class Rule(NamedTuple):
    """A way to select recordings, and the columns of the catalog that it needs."""

    choose: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    needs: tuple[str, ...]


RULES: dict[str, Rule] = {
    "all": Rule(lambda catalog, rng: catalog, ()),
    "tier1": Rule(_flagged("tier1"), ("tier1",)),
    "micro": Rule(_flagged("micro"), ("micro",)),
    "nano": Rule(_flagged("nano"), ("nano",)),
    "tier1+stalls": Rule(
        _with_tier2_stalls(_flagged("tier1")), ("tier1", "crowd_score", "stalled")
    ),
    "third-place": Rule(_third_place, ("tier1", "micro", "project_id")),
    "third-place+stalls": Rule(
        _with_tier2_stalls(_third_place), ("tier1", "micro", "project_id", "crowd_score", "stalled")
    ),
    "first-place": Rule(_all_stalled_and(FIRST_PLACE_COUNT), ("stalled",)),
    "first-place-tier1": Rule(_first_place_tier1, ("tier1", "stalled")),
    "matlab-prize": Rule(_all_stalled_and(MATLAB_PRIZE_COUNT), ("stalled",)),
}


def select(catalog: pd.DataFrame, rule: str, seed: int) -> pd.DataFrame:
    """Select recordings of a catalog by a rule; the result is sorted and may be empty.

    Parameters
    ----------
    catalog : DataFrame
        From `join_labels`.
    rule : str
        A name in `RULES`. ``third-place`` is the published rule: the micro subset and at most
        `OTHERS_PER_PROJECT` others of each project, all from tier1. ``+stalls`` adds stalled
        recordings outside tier1 with a crowd score above `TIER2_CROWD_SCORE`.
    seed : int
        Seed of the draw, 0..2**32 - 1. A seed draws the same recordings whatever the row order.

    Raises
    ------
    SettingsError
        If the rule is unknown or the seed out of range.
    InputError
        If the catalog lacks a column that the rule needs (test metadata have no tiers).
    """
    check_rule(rule)
    check_columns(catalog, RULES[rule].needs, f"rule {rule}")
    return sorted_by_name(RULES[rule].choose(sorted_by_name(catalog), generator(seed)))


def select_to_file(
    metadata: str | Path, labels: str | Path, rule: str, seed: int, out: str | Path
) -> Selection:
    """Select recordings from the competition's two tables and write them to `out` as one catalog.

    Raises
    ------
    SettingsError, TableError, InputError
        As `tables.read_metadata`, `join_labels`, `select` and `tables.write_table`. InputError also
        if the selection lacks a class, so it cannot be trained on, or `out` is a file of another
        kind. Nothing is written then.
    """
    catalog = join_labels(read_metadata(metadata), read_labels(labels))
    selected = select(catalog, rule, seed)
    selection = Selection.of(selected)
    _ = selection.class_weight  # refuses a selection without both classes
    refuse_foreign(out, [",".join(selected.columns) + "\n"], "a table of 'stallscan select'")
    write_table(selected, out)
    return selection


def check_rule(rule: str) -> None:
    """Raise SettingsError if a rule is unknown."""
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule}{suggest(rule, RULES)}")


def check_columns(catalog: pd.DataFrame, needed: Sequence[str], purpose: str) -> None:
    """Raise InputError if a catalog lacks a needed column."""
    for column in needed:
        if column not in catalog:
            raise InputError(
                f"the catalog lacks the column {column}, which {purpose} needs"
                f"{suggest(column, catalog.columns)}"
            )


def check_seed(seed: int) -> None:
    """Raise SettingsError if numpy or scikit-learn would not accept a seed."""
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed {seed} is out of range. Choose one from 0 to {2**32 - 1}")


def generator(seed: int) -> np.random.Generator:
    """Return a random generator for a seed."""
    check_seed(seed)
    return np.random.default_rng(seed)


def sorted_by_name(table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by filename."""
    return table.sort_values("filename", kind="stable", ignore_index=True)
