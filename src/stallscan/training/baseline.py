"""Fit the baseline: measure the features of every clip, then fit the model on them."""

import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from stallscan import workers
from stallscan.nets import features
from stallscan.nets.features import FeatureModel
from stallscan.nets.measures import measure
from stallscan.recipes.recipe import Recipe
from stallscan.training import fit
from stallscan.training.checkpoints import write_history
from stallscan.training.data import TrainValidation
from stallscan.training.dataset import ClipDataset, Pick

LOGGED = 1000  # clips between two lines of progress: about half a minute

log = logging.getLogger("stallscan")


class Fitted(NamedTuple):
    """A fitted model, and its logits of the validation split, float64 (recordings,)."""

    model: FeatureModel
    logits: NDArray[np.float64]


def fit_baseline(recipe: Recipe, parts: TrainValidation, history: Path) -> Fitted:
    """Fit the baseline and write its row of history.

    The epochs of the recipe are passes over the training clips, each with other augmentation. The
    model is fitted on all of them.

    Parameters
    ----------
    recipe : Recipe
        The experiment; its net is the baseline.
    parts : TrainValidation
        The training and validation splits.
    history : Path
        ``history.csv``.

    Raises
    ------
    InputError
        If there are too few recordings of a label (`features.fit`).
    WorkerError
        If the measuring processes fail.
    """
    epochs = recipe.training.stages[0].epochs
    stalled_weight = parts.class_weight if recipe.training.class_weight == "ratio" else 1.0
    train = _dataset(recipe, parts, parts.train, augmented=True)
    picks = [Pick(row, epoch) for epoch in range(epochs) for row in range(len(train))]
    learned = _measure(train, picks, recipe)  # (epochs * train, features)
    validation = _dataset(recipe, parts, parts.validation, augmented=False)
    checked = _measure(validation, [Pick(row) for row in range(len(validation))], recipe)
    labels = np.tile(parts.train["stalled"].to_numpy(np.int64), epochs)
    # Clips of one recording are alike, so none of them may check what the others have taught.
    rows = [pick.row for pick in picks]
    model = features.fit(learned, labels, recipe.seed, stalled_weight, rows)
    truths = (labels, parts.validation["stalled"].to_numpy(np.int64))
    logits = [model.score(table) for table in (learned, checked)]
    train_loss, val_loss = (
        _loss(each, truth, stalled_weight) for each, truth in zip(logits, truths, strict=True)
    )
    measured = dict(fit.measure(torch.tensor(logits[1]), torch.tensor(truths[1]), val_loss))
    write_history(history, {"epoch": 0, "train_loss": train_loss, **measured, "lr": math.nan})
    return Fitted(model, logits[1])


def _dataset(
    recipe: Recipe, parts: TrainValidation, rows: pd.DataFrame, *, augmented: bool
) -> ClipDataset:
    names, labels = rows["filename"].tolist(), rows["stalled"].tolist()
    augmentation = recipe.augment if augmented else None
    return ClipDataset(parts.store, names, labels, augmentation, recipe.seed)


def _measure(clips: ClipDataset, picks: Sequence[Pick], recipe: Recipe) -> NDArray[np.float32]:
    """Measure the picked clips, (picks, features), in as many processes as the recipe has."""
    task = functools.partial(_measure_one, clips)
    rows = []
    for row in workers.in_order(task, picks, recipe.training.workers):
        rows.append(row)
        if len(rows) % LOGGED == 0:
            log.info("measured %d of %d clips", len(rows), len(picks))
    return np.stack(rows)


def _measure_one(clips: ClipDataset, pick: Pick) -> NDArray[np.float32]:
    return measure(clips[pick].pixels.numpy())


def _loss(logits: NDArray[np.float64], labels: NDArray[np.int64], stalled_weight: float) -> float:
    # Copied, because columns of a table are read-only.
    truth, weight = torch.tensor(labels).double(), torch.tensor(stalled_weight)
    loss = F.binary_cross_entropy_with_logits(torch.tensor(logits), truth, pos_weight=weight)
    return float(loss)
