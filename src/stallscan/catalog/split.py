"""Tables of recordings parted: at random, by class, by project or mouse, and into folds."""

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
Split = tuple[pd.DataFrame, pd.DataFrame]


def limit(catalog: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw at most so many recordings, with the same share of stalled ones.

    Parameters
    ----------
    catalog : DataFrame
        Recordings with stalled (0 or 1).
    count : int
        Recordings wanted, at least 1.
    seed : int
        Seed of the draw, 0..2**32 - 1.

    Returns
    -------
    DataFrame
        Sorted by filename; at least one of each class that is there, all if there are no more.
    """
    if len(catalog) <= count:
        return sorted_by_name(catalog)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, 2, "a split into two parts")
    stalled = int((catalog["stalled"] == 1).sum())
    # In whole numbers: rounding both classes by themselves may give one too many.
    of_stalled = min(max(round(Fraction(count * stalled, len(catalog))), 1), stalled - 1)
    wanted = {0: max(count - of_stalled, 1), 1: of_stalled}
    return _draw(catalog, wanted, generator(seed))[1]


def split_stratified(catalog: pd.DataFrame, fraction: float, seed: int) -> Split:
    """Split by recording, with the same share of stalled ones in both parts.

    Recordings of one project end on both sides: the published way, and a flattering one.
    `split_grouped` keeps them together.

    Parameters
    ----------
    catalog : DataFrame
        Recordings with stalled (0 or 1), at least two of each class.
    fraction : float
        Share of each class to validate on, above 0 and below 1; rounded to whole recordings, but
        each part gets at least one of each class.
    seed : int
        Seed of the draw, 0..2**32 - 1.

    Returns
    -------
    tuple of DataFrame
        Training and validation part, each sorted by filename.

    Raises
    ------
    SettingsError
        If the fraction or the seed is out of range.
    InputError
        If there are fewer than two recordings of a class.
    """
    _check_fraction(fraction)
    rng = generator(seed)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, 2, "a split into two parts")
    # By hand, because scikit-learn rounds so that a rare class may be left without a recording.
    wanted = {
        label: min(max(round(fraction * size), 1), size - 1)
        for label, size in catalog["stalled"].value_counts().items()
    }
    return _draw(catalog, wanted, rng)


def _draw(catalog: pd.DataFrame, wanted: dict[Any, int], rng: np.random.Generator) -> Split:
    """Hold back so many recordings of each class."""
    held_out = np.zeros(len(catalog), dtype=bool)
    for label, rows in catalog.groupby("stalled").indices.items():
        held_out[rng.choice(rows, wanted[label], replace=False)] = True
    return _parts(catalog, held_out)


def split_grouped(
    catalog: pd.DataFrame, fraction: float, seed: int, by: str = "project_id"
) -> Split:
    """Split by group: all recordings of a project (or mouse) end on the same side.

    The groups are drawn so that the validation part comes near the fraction in both classes; how
    near depends on how large the groups are.

    Parameters
    ----------
    catalog : DataFrame
        Recordings with stalled (0 or 1), and at least two groups with stalled ones.
    fraction : float
        Share of each class to validate on, above 0 and below 1.
    seed : int
        Seed of the draw, 0..2**32 - 1.
    by : str
        The column that names the group.

    Returns
    -------
    tuple of DataFrame
        Training and validation part, each sorted by filename.

    Raises
    ------
    SettingsError
        If the fraction or the seed is out of range.
    InputError
        If the column is missing, or the groups cannot be parted so that each part has both
        classes.
    """
    _check_fraction(fraction)
    check_columns(catalog, [by], "a grouped split")
    rng = generator(seed)
    catalog = sorted_by_name(catalog)
    stalled = catalog["stalled"].to_numpy()
    groups, names = pd.factorize(catalog[by])
    sizes = np.stack(
        [np.bincount(groups, stalled == label, minlength=len(names)) for label in (0, 1)], axis=1
    )
    orders = rng.permuted(np.tile(np.arange(len(names)), (GROUPED_TRIES, 1)), axis=1)
    taken = sizes[orders].cumsum(axis=1)  # (tries, groups, 2): recordings in the first groups
    total = sizes.sum(axis=0)
    lacks_class = ((taken == 0) | (taken == total)).any(axis=2)
    if lacks_class.all():
        raise InputError(
            f"the recordings cannot be parted by {by} so that both parts have stalled and flowing "
            "ones; split them without groups or by another column"
        )
    distance = np.abs(taken / total - fraction).sum(axis=2)
    best, last = np.unravel_index(np.where(lacks_class, np.inf, distance).argmin(), distance.shape)
    return _parts(catalog, np.isin(groups, orders[best, : last + 1]))


def folds(catalog: pd.DataFrame, k: int, seed: int, by: str | None = None) -> list[Split]:
    """Split k times, so that each recording is validated on exactly once.

    Parameters
    ----------
    catalog : DataFrame
        Recordings with stalled (0 or 1), at least k of each class.
    k : int
        Number of folds, at least 2.
    seed : int
        Seed of the draw, 0..2**32 - 1.
    by : str, optional
        The column that names groups to keep together (``project_id``); then the classes are
        balanced only as far as the groups allow, and a fold may lack stalled recordings.

    Returns
    -------
    list of tuple of DataFrame
        Training and validation part of each fold, each sorted by filename.

    Raises
    ------
    SettingsError
        If k is below 2 or the seed out of range.
    InputError
        If the column is missing, or there are fewer than k groups or recordings of a class.
    """
    # Takes a second to import, which `stallscan --help` need not wait for.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if k < 2:
        raise SettingsError(f"{k} folds cannot be made; expected at least 2")
    check_seed(seed)
    catalog = sorted_by_name(catalog)
    _check_classes(catalog, k, f"{k} folds")
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
                f"there are {catalog[by].nunique()} different {by}, too few for {k} folds"
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


def _class_counts(catalog: pd.DataFrame) -> tuple[int, int]:
    selection = Selection.of(catalog)
    return selection.flowing, selection.stalled


def _check_classes(catalog: pd.DataFrame, least: int, purpose: str) -> None:
    flowing, stalled = _class_counts(catalog)
    if min(flowing, stalled) < least:
        raise InputError(
            f"{purpose} needs at least {least} recordings of each class, but there are "
            f"{flowing} flowing and {stalled} stalled"
        )


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise SettingsError(
            f"fraction {fraction} cannot be split off; expected a number above 0 and below 1"
        )
