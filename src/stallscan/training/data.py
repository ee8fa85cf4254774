"""What is trained on: recordings, prepared as clips, with their labels."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan import files
from stallscan.catalog import select, split
from stallscan.catalog.tables import read_labels, read_metadata
from stallscan.clips import fill, store
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recipes.recipe import Recipe
from stallscan.recordings.find import Source
from stallscan.training import ranks
from stallscan.words import listed

log = logging.getLogger("stallscan")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Data:
    """Labelled recordings, prepared.

    Attributes
    ----------
    store : Store
        Their clips.
    table : DataFrame
        Rows of the catalog that a rule of the data or of a stage selects and that have a clip.
    selected : dict of str to set of str
        Filenames that each rule selects.
    sha256 : str
        Hash of filenames and labels.
    simulated : bool
        Whether the folder says that its recordings are simulated.
    """

    store: Store
    table: pd.DataFrame
    selected: dict[str, set[str]]
    sha256: str
    simulated: bool

    @classmethod
    def of(
        cls, made: Store, wanted: pd.DataFrame, selected: dict[str, set[str]], simulated: bool
    ) -> "Data":
        """Take what is `wanted`, but, with a warning, what gave no clip or is not ok."""
        usable = wanted[[name in made for name in wanted["filename"]]].reset_index(drop=True)
        if len(usable) < len(wanted):
            log.warning(
                "%d of %d recordings have no clip in %s and are left out; its %s says why of those "
                "that it knows",
                len(wanted) - len(usable),
                len(wanted),
                made.folder,
                store.TABLE_NAME,
            )
        not_ok = made.not_ok()
        judged = usable[~usable["filename"].isin(not_ok)].reset_index(drop=True)
        if len(judged) < len(usable):
            names = usable.loc[usable["filename"].isin(not_ok), "filename"]
            log.warning(
                "%d recordings are damaged or cannot be judged, so that prediction would not call "
                "them, and are left out: %s",
                len(names),
                listed([f"{name} ({not_ok[name]})" for name in names]),
            )
        usable = judged
        content = usable[["filename", "stalled"]].to_csv(index=False).encode()
        return cls(made, usable, selected, files.sha256_of(content), simulated)

    def restrict(self, part: pd.DataFrame, rule: str) -> pd.DataFrame:
        """Keep of a part of `table` what a rule selects."""
        return part[part["filename"].isin(self.selected[rule])].reset_index(drop=True)


def prepare_data(
    recipe: Recipe,
    data: Path,
    folder: Path,
    progress: Progress,
    clips: Path | None = None,
    asks: tuple[str, str] | None = None,
) -> Data:
    """Select and prepare the recordings of a data folder.

    Parameters
    ----------
    recipe : Recipe
        The experiment.
    data : Path
        As in `train`. One that brings its clips in ``store/`` needs no recordings.
    folder : Path
        For the store of the clips that are made.
    progress : callable
        Called with how many recordings are prepared, of how many.
    clips : Path, optional
        A store that has the clips already.
    asks : tuple of str, optional
        Who asks for these clips, and how `stallscan prepare` is told so, as `Store.require` takes
        it; the recipe by its name if not given.

    Raises
    ------
    InputError
        If tables are missing or wrong, or too few recordings are left.
    StoreError
        If the clips that are there already were made with other settings.
    """
    table = select.join_labels(
        read_metadata(_table(data, "train_metadata.csv")),
        read_labels(_table(data, "train_labels.csv")),
    )
    rules = {recipe.data.rule, *(stage.rule for stage in recipe.training.stages)} - {""}
    selected = {
        rule: set(select.select(table, rule, recipe.data_seed)["filename"])
        for rule in sorted(rules)
    }
    wanted = table[table["filename"].isin(set().union(*selected.values()))]
    if recipe.data.limit:
        wanted = split.limit(wanted, recipe.data.limit, recipe.data_seed)
    simulated = (data / "simulation.json").is_file()
    if clips is None and (data / "store" / store.MANIFEST_NAME).is_file():
        clips = data / "store"
    if clips is not None:
        made = Store(clips)
        asks = asks or (f"the recipe {recipe.name}", f"--recipe {recipe.name}")
        made.require(Preprocessing(recipe.outline, recipe.clip), *asks)
        made.warn_of_replaced()
        progress(len(wanted), len(wanted))
    elif ranks.rank() > 0:
        made = Store(folder)  # the first process has made it
    else:
        sources = [Source(name, data / "train" / name) for name in wanted["filename"]]
        made = fill.build(folder, sources, recipe.outline, recipe.clip, progress=progress)
    return Data.of(made, wanted, selected, simulated)


def _table(data: Path, name: str) -> Path:
    for path in (data / name, data / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{data}: {name} is missing; a data folder holds train_metadata.csv, train_labels.csv "
        "and the recordings in train/, or their clips in store/ (a store elsewhere: --store)"
    )


@dataclass(frozen=True)
class TrainValidation:
    """What one net is trained and validated on.

    Attributes
    ----------
    store : Store
        The clips.
    train, validation : DataFrame
        Rows of the catalog.
    class_weight : float
        Flowing recordings per stalled one in `train`.
    """

    store: Store
    train: pd.DataFrame
    validation: pd.DataFrame
    class_weight: float

    @classmethod
    def of(cls, store: Store, train: pd.DataFrame, validation: pd.DataFrame) -> "TrainValidation":
        """Check that there are both classes to train on, and weigh them.

        Raises
        ------
        InputError
            If there are not.
        """
        return cls(store, train, validation, select.Selection.of(train).class_weight)
