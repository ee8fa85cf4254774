"""Split tables of recordings at random, by class, by project or mouse, and into folds."""

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.catalog.select import Selection, check_columns, check_seed, generator, sorted_by_name
from stallscan.errors import InputError, SettingsError

# A grouped split is the best of this many random orders of the groups: enough to come within a few
# per cent of the wanted shares on the competition's 12 projects, few enough that seeds differ.
GROUPED_TRIES = 50
# Training and validation data.
Split = tuple[pd.DataFrame, pd.DataFrame]


def limit(catalog: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw at most `count` recordings with the same share of stalled ones, at least one per class.

    The result is sorted by filename.
    """
    if len(catalog) <= count:
        return sorted_by_name(catalog)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, 2, "a split")
    stalled = int((catalog["stalled"] == 1).sum())
    # Only one class is rounded, because rounding both could give one recording too many.
    stalled_drawn = min(max(round(Fraction(count * stalled, len(catalog))), 1), stalled - 1)
    wanted = {0: max(count - stalled_drawn, 1), 1: stalled_drawn}
    return _draw(catalog, wanted, generator(seed))[1]


def split_stratified(catalog: pd.DataFrame, fraction: float, seed: int) -> Split:
    """Split by recording, with the same share of stalled ones in training and validation data.

    Recordings of one project end up on both sides, as published, which makes scores optimistic.
    `split_grouped` keeps them together.

    Parameters
    ----------
    catalog : DataFrame
        Recordings with stalled (0 or 1), at least two of each class.
    fraction : float
        Share of each class to validate on, above 0 and below 1. It is rounded to whole recordings,
        but each side gets at least one of each class.
    seed : int
        Seed of the draw, 0..2**32 - 1.

    Returns
    -------
    tuple of DataFrame
        Training and validation data, each sorted by filename.

    Raises
    ------
    SettingsError
        If the fraction or the seed is out of range.
    InputError
        If there are fewer than two recordings of a class.
    """
    check_fraction(fraction)
    rng = generator(seed)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, 2, "a split")
    # By hand, because scikit-learn may round the number of a rare class down to 0.
    wanted = {
        label: min(max(round(fraction * size), 1), size - 1)
        for label, size in catalog["stalled"].value_counts().items()
    }
    return _draw(catalog, wanted, rng)


def _draw(catalog: pd.DataFrame, wanted: dict[Any, int], rng: np.random.Generator) -> Split:
    """Hold out `wanted` recordings of each class."""
    held_out = np.zeros(len(catalog), dtype=bool)
    for label, rows in catalog.groupby("stalled").indices.items():
        held_out[rng.choice(rows, wanted[label], replace=False)] = True
    return _parts(catalog, held_out)


def split_grouped(
    catalog: pd.DataFrame, fraction: float, seed: int, by: str = "project_id"
) -> Split:
    """Split by group, so that all recordings of a project (or mouse) are on the same side.

    The validation data come as close to the fraction in both classes as the group sizes allow.
    Parameters, result and errors are as in `split_stratified`, with the column `by` naming the
    groups. Raises `InputError` if no split leaves both classes on both sides.
    """
    check_fraction(fraction)
    check_columns(catalog, [by], "a grouped split")
    rng = generator(seed)
    catalog = sorted_by_name(catalog)
    stalled = catalog["stalled"].to_numpy()
    groups, names = pd.factorize(catalog[by])
    # (groups, 2): recordings of each class in each group
    sizes = np.stack(
        [np.bincount(groups, stalled == label, minlength=len(names)) for label in (0, 1)], axis=1
    )
    orders = rng.permuted(np.tile(np.arange(len(names)), (GROUPED_TRIES, 1)), axis=1)
    # (tries, groups, 2): recordings in the first 1, 2, ... groups of each order
    taken = sizes[orders].cumsum(axis=1)
    total = sizes.sum(axis=0)
    lacks_class = ((taken == 0) | (taken == total)).any(axis=2)  # (tries, groups)
    if lacks_class.all():
        raise InputError(
            f"the recordings cannot be split by {by} with stalled and flowing ones on both sides. "
            "Split them without groups or by another column"
        )
    distance = np.abs(taken / total - fraction).sum(axis=2)
    best, last = np.unravel_index(np.where(lacks_class, np.inf, distance).argmin(), distance.shape)
    return _parts(catalog, np.isin(groups, orders[best, : last + 1]))


def folds(catalog: pd.DataFrame, k: int, seed: int, by: str | None = None) -> list[Split]:
    """Split k times so that each recording is validated on exactly once.

    With `by`, a column such as ``project_id``, groups stay together. The classes are then balanced
    only as far as the groups allow, and a fold may lack stalled recordings. Each split is as in
    `split_stratified`.

    Raises
    ------
    SettingsError
        If k is below 2 or the seed out of range.
    InputError
        If the column is missing, or there are fewer than k groups or recordings of a class.
    """
    # Imported here because it takes a second, which would delay `stallscan --help`.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if k < 2:
        raise SettingsError(f"{k} folds are too few. Choose at least 2")
    check_seed(seed)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, k, f"a split into {k} folds")
    splitter: Any
    if by is None:
        groups = None
        splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    else:
        check_columns(catalog, [by], "folds by group")
        groups = catalog[by].to_numpy()
        splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
        if catalog[by].nunique() < k:
            raise InputError(
                f"{k} folds need at least {k} different values of {by}, but there are only "
                f"{catalog[by].nunique()}. Choose fewer folds"
            )
    splits = []
    for _, rows in splitter.split(catalog, catalog["stalled"].to_numpy(), groups):
        held_out = np.zeros(len(catalog), dtype=bool)
        held_out[rows] = True
        splits.append(_parts(catalog, held_out))
    return splits


def _parts(catalog: pd.DataFrame, held_out: NDArray[np.bool_]) -> Split:
    return (
        catalog[~held_out].reset_index(drop=True),
        catalog[held_out].reset_index(drop=True),
    )


def _check_classes(catalog: pd.DataFrame, least: int, purpose: str) -> None:
    counts = Selection.of(catalog)
    if min(counts.flowing, counts.stalled) < least:
        raise InputError(
            f"{purpose} needs at least {least} recordings of each class, but there are "
            f"{counts.flowing} flowing and {counts.stalled} stalled"
        )


def check_fraction(fraction: float, name: str = "the fraction") -> None:
    """Raise SettingsError if a share to hold out, by its name, is not above 0 and below 1."""
    if not 0 < fraction < 1:
        raise SettingsError(
            f"{name} {fraction} is out of range. Choose a number above 0 and below 1"
        )
