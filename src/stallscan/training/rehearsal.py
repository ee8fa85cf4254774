"""A dry run of a training: one batch through everything, in a folder that is removed afterwards."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan.catalog.select import Selection
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.recipes.recipe import Recipe, shorten
from stallscan.training import train
from stallscan.training.data import Progress, prepare
from stallscan.training.folder import STORE_NAME, check
from stallscan.training.labelled import LabelledRecordings

# Chosen: of each class, so that the splits keep both if a few recordings are unusable.
FEWEST_OF_CLASS = 4


@dataclass(frozen=True)
class Rehearsal:
    """What the training will do.

    Attributes
    ----------
    bundle : Path
        The bundle of the dry run, good for nothing but checking that it can be exported.
    learn, choose : Selection
        The recordings to train on and to validate on; with folds, those of the first.
    """

    bundle: Path
    learn: Selection
    choose: Selection

    def __str__(self) -> str:
        return (
            f"dry run: one batch went through every stage, and nothing was written. The training "
            f"learns from {self.learn.count:,} recordings ({self.learn.stalled:,} stalled) and "
            f"chooses with {self.choose.count:,} ({self.choose.stalled:,} stalled)"
        )


@contextlib.contextmanager
def rehearse(
    recipe: Recipe,
    recordings: LabelledRecordings,
    run: Path,
    progress: Progress = lambda _done, _of: None,
) -> Iterator[Rehearsal]:
    """Train on one batch per stage in a temporary folder; the run folder is only checked.

    Parameters
    ----------
    recipe, recordings, run, progress
        As in `train.train`.

    Raises
    ------
    StallscanError
        Whatever would stop the training.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a dry run uses one process. Start it without torchrun")
    build.try_net(recipe.net, recipe.clip.frames, recipe.clip.size)
    check(run, recipe)
    validation = train.checked_splits(recipe, recordings)[0][1]
    rest = train.not_held_out(recipe, recordings, validation)
    count = max(math.ceil(recipe.training.batch_size / 2), FEWEST_OF_CLASS)
    rules = [stage.rule or recipe.data.rule for stage in recipe.training.stages]
    learned = [recordings.restrict(rest, rule) for rule in rules]
    few = pd.concat([_few(rows, count) for rows in (validation, *learned)])
    sample = recordings.only(few["filename"])
    with tempfile.TemporaryDirectory(prefix="stallscan-dry-run-") as name:
        folder = Path(name)
        prepared = prepare(sample, recipe, folder / STORE_NAME, progress)
        names = set(_few(validation, count)["filename"])
        is_validated = prepared.table["filename"].isin(names)
        train.train_split(shorten(recipe, 1), prepared, prepared.table[is_validated], folder)
        every = pd.concat(learned).drop_duplicates("filename")
        yield Rehearsal(folder / "bundle", Selection.of(every), Selection.of(validation))


def _few(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first `count` recordings of each class."""
    return rows.groupby("stalled").head(count)
