"""Select and prepare the labelled recordings to train on."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan import files
from stallscan.catalog import select
from stallscan.clips import fill, store
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.recipes.recipe import Recipe
from stallscan.training import labelled, ranks
from stallscan.training.labelled import LabelledRecordings
from stallscan.words import listed, say_time

# Chosen: after as many clips their rate is known, also where several processes cut them.
TIMED = 32

log = logging.getLogger("stallscan")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Data:
    """Labelled recordings and their clips.

    Attributes
    ----------
    store : Store
        The clips.
    table : DataFrame
        Rows of the catalog that any rule of the recipe selects and that have a clip.
    selected : dict of str to set of str
        The filenames that each rule selects.
    sha256 : str
        Hash of filenames and labels.
    simulated : bool
        Whether the recordings are simulated.
    seen : frozenset of str
        The filenames that may be trained on, but neither validated on nor held out, because the
        bundle to start from has learned from them or from others of their group.
    """

    store: Store
    table: pd.DataFrame
    selected: dict[str, set[str]]
    sha256: str
    simulated: bool
    seen: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        clips: Store,
        wanted: pd.DataFrame,
        selected: dict[str, set[str]],
        simulated: bool,
        seen: frozenset[str] = frozenset(),
    ) -> "Data":
        """Join recordings with their clips; leave out, with a warning, those that are unusable."""
        has_clip = wanted[[name in clips for name in wanted["filename"]]].reset_index(drop=True)
        if len(has_clip) < len(wanted):
            log.warning(
                "%d of %d recordings have no clip in %s and are left out. Its %s gives the reason "
                "for each recording that it lists",
                len(wanted) - len(has_clip),
                len(wanted),
                clips.folder,
                store.TABLE_NAME,
            )
        not_ok = clips.not_ok()
        is_unusable = has_clip["filename"].isin(not_ok)
        if is_unusable.any():
            names = has_clip.loc[is_unusable, "filename"]
            log.warning(
                "%d recordings are damaged or unscorable and are left out, because prediction "
                "would not call them either: %s",
                len(names),
                listed([f"{name} ({not_ok[name]})" for name in names]),
            )
        usable = has_clip[~is_unusable].reset_index(drop=True)
        content = usable[["filename", "stalled"]].to_csv(index=False).encode()
        return cls(clips, usable, selected, files.sha256_of(content), simulated, seen)

    def restrict(self, rows: pd.DataFrame, rule: str) -> pd.DataFrame:
        """Return those rows of `table` that a rule selects."""
        return rows[rows["filename"].isin(self.selected[rule])].reset_index(drop=True)

    def unseen(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return those rows of `table` that may be validated on or held out."""
        return rows[~rows["filename"].isin(self.seen)].reset_index(drop=True)

    def hash_uses(self, recipe: Recipe) -> str:
        """Return a hash of what determines splits and targets besides filenames and labels."""
        uses = self.table[["filename"]].assign(seen=self.table["filename"].isin(self.seen))
        if recipe.data.group:
            uses["group"] = self.table[recipe.data.group]
        if recipe.training.targets == "crowd":
            uses["target"] = self.table["crowd_score"]
        for rule, names in sorted(self.selected.items()):
            uses[rule] = self.table["filename"].isin(names)
        return files.sha256_of(uses.to_csv(index=False).encode())


def _warn_of_copies(clips: Store, filenames: pd.Series) -> None:
    """Warn that recordings have the same clip: one may be learned from, and another held out."""
    names: dict[str, list[str]] = {}
    for name, (_, clip) in clips.identities(filenames).items():
        if clip:  # the hash is unknown in old stores
            names.setdefault(clip, []).append(name)
    copies = [f"{same[0]} and {other}" for same in names.values() for other in same[1:]]
    if copies:
        log.warning(
            "the same recording under two names: %s. One may be learned from while the other is "
            "held out, and figures are then too good. Keep one of each",
            listed(copies),
        )


def prepare_data(
    recipe: Recipe,
    data: Path,
    folder: Path,
    progress: Progress,
    clips: Path | None = None,
    asks: tuple[str, str] | None = None,
) -> Data:
    """Select and prepare the recordings of a data folder.

    Parameters and errors as in `labelled.from_folder` and `prepare`.
    """
    return prepare(labelled.from_folder(recipe, data, clips), recipe, folder, progress, asks)


def prepare(
    recordings: LabelledRecordings,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    asks: tuple[str, str] | None = None,
) -> Data:
    """Prepare labelled recordings, or check the existing clips of them.

    Parameters
    ----------
    recordings : LabelledRecordings
        From `labelled.from_folder` or `labelled.from_table`.
    recipe : Recipe
        The experiment.
    folder : Path
        Folder of the store to write if there is none yet.
    progress : callable
        Called with the number of recordings prepared and their total.
    asks : tuple of str, optional
        What needs these clips, and the options that make `stallscan prepare` produce them, as
        `Store.require` takes them; by default the recipe's name.

    Raises
    ------
    InputError
        If too few recordings are left.
    StoreError
        If the existing clips were made with other settings.
    """
    if recordings.clips is not None:
        prepared = recordings.clips
        asks = asks or (f"the recipe {recipe.name}", f"--recipe {recipe.name}")
        prepared.require(Preprocessing(recipe.outline, recipe.clip), *asks)
        prepared.warn_of_replaced()
        progress(len(recordings.table), len(recordings.table))
    elif ranks.rank() > 0:
        prepared = Store(folder)  # the first process has written it
    else:
        prepared = fill.build(
            folder, recordings.sources, recipe.outline, recipe.clip, progress=_timed(progress)
        )
    data = Data.of(prepared, recordings.table, recordings.selected, recordings.simulated)
    _warn_of_copies(prepared, data.table["filename"])
    return data


def _timed(progress: Progress) -> Progress:
    """Return `progress` that also logs, once, how long the rest takes: bars need a terminal."""
    began = time.monotonic()
    first: int | None = None  # clips from an earlier run

    def report(done: int, of: int) -> None:
        nonlocal first
        first = done if first is None else first
        if done - first == TIMED and done < of:
            seconds = (time.monotonic() - began) / TIMED * (of - done)
            log.info(
                "cutting the other %s clips takes about %s; the training comes on top",
                f"{of - done:,}",
                say_time(seconds),
            )
        progress(done, of)

    return report


@dataclass(frozen=True)
class TrainValidation:
    """The training and validation splits of one net.

    Attributes
    ----------
    store : Store
        The clips.
    train, validation : DataFrame
        Rows of the catalog.
    class_weight : float
        Number of flowing recordings per stalled one in `train`.
    """

    store: Store
    train: pd.DataFrame
    validation: pd.DataFrame
    class_weight: float

    @classmethod
    def of(cls, store: Store, train: pd.DataFrame, validation: pd.DataFrame) -> "TrainValidation":
        """Compute the class weight; raise InputError if the training split lacks a class."""
        return cls(store, train, validation, select.Selection.of(train).class_weight)
