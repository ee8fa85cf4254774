"""Build the data loaders for training and for scoring."""

from typing import Any

import pandas as pd
from torch.utils.data import DataLoader

from stallscan.clips.store import Store
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import StageSettings
from stallscan.training import ranks
from stallscan.training.data import TrainValidation
from stallscan.training.dataset import ClipDataset, Collate, LengthSampler


def training_sampler(recipe: Recipe, parts: TrainValidation, first_epoch: int) -> LengthSampler:
    """Return the sampler that draws the batches of each epoch."""
    settings = recipe.training
    return LengthSampler(
        [parts.store.frames(name) for name in parts.train["filename"]],
        settings.batch_size,
        recipe.seed,
        labels=parts.train["stalled"].tolist(),
        stalled_share=settings.stalled_share,
        trim=settings.lengths != "pad",
        first_epoch=first_epoch,
        rank=ranks.rank(),
        world=ranks.world(),
    )


def training_loader(
    recipe: Recipe, stage: StageSettings, parts: TrainValidation, sampler: LengthSampler
) -> Any:
    """Return a loader of the batches that a sampler draws in a stage."""
    settings, augmentation = recipe.training, recipe.augment
    if stage.appearance is not None:
        augmentation = augmentation.model_copy(update={"appearance": stage.appearance})
    targets = parts.train["crowd_score" if settings.targets == "crowd" else "stalled"].tolist()
    names = parts.train["filename"].tolist()
    return DataLoader(
        ClipDataset(parts.store, names, targets, augmentation, recipe.seed),
        batch_sampler=sampler,
        collate_fn=Collate(recipe.net, pad=settings.lengths == "pad"),
        num_workers=settings.workers,
        # Workers that are not forked take seconds to start, so keep them between epochs.
        persistent_workers=settings.workers > 0,
    )


def scoring_loader(
    recipe: Recipe, clips: Store, rows: pd.DataFrame, rank: int = 0, world: int = 1
) -> Any:
    """Return a loader of single clips, none of which is trimmed to the length of another."""
    names = rows["filename"].tolist()
    return DataLoader(
        ClipDataset(clips, names, rows["stalled"].tolist()),
        sampler=range(rank, len(names), world),
        batch_size=1,
        collate_fn=Collate(recipe.net),
        num_workers=recipe.training.workers,
        persistent_workers=recipe.training.workers > 0,
    )
