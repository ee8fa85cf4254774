"""The labelled recordings to train on: tables are read and checked before anything is prepared.

Nothing here imports torch, so that a mistake in a table is reported at once.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from stallscan.catalog import groups, names, select, split, text
from stallscan.catalog.groups import MOUSE_COLUMNS
from stallscan.catalog.names import match
from stallscan.catalog.tables import (
    LABELS,
    labels_of,
    read_labels,
    read_metadata,
    say_understood,
)
from stallscan.clips import store
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recipes.recipe import Recipe
from stallscan.recordings import find
from stallscan.recordings.find import Source
from stallscan.words import listed

# Chosen: fewer groups cannot be split three ways (training, validation, held out).
FEWEST_GROUPS = 6

# The option of train that splits by recording; fine-tune has --group.
BY_RECORDING = "--set data.group='\"\"'"

log = logging.getLogger("stallscan")


@dataclass(frozen=True)
class LabelledRecordings:
    """Labelled recordings that a recipe selects.

    Attributes
    ----------
    table : DataFrame
        filename, stalled and further columns of the tables, one row per recording.
    selected : dict of str to set of str
        The filenames that each rule of the recipe selects.
    sources : tuple of Source
        The recordings, in the order of `table`; empty if there is a store.
    clips : Store or None
        An existing store of their clips.
    simulated : bool
        Whether the recordings are simulated.
    """

    table: pd.DataFrame
    selected: dict[str, set[str]]
    sources: tuple[Source, ...]
    clips: Store | None
    simulated: bool

    def restrict(self, rows: pd.DataFrame, rule: str) -> pd.DataFrame:
        """Return those rows of `table` that a rule selects."""
        return rows[rows["filename"].isin(self.selected[rule])].reset_index(drop=True)

    def only(self, filenames: "pd.Series[str]") -> "LabelledRecordings":
        """Return these recordings alone, sorted by filename."""
        kept = set(filenames)
        table = select.sorted_by_name(self.table[self.table["filename"].isin(kept)])
        sources = sorted(source for source in self.sources if source.filename in kept)
        return replace(self, table=table, sources=tuple(sources))


def from_folder(recipe: Recipe, data: Path, clips: Path | None = None) -> LabelledRecordings:
    """Select the recordings of a folder in the competition's form.

    Parameters
    ----------
    recipe : Recipe
        The experiment.
    data : Path
        Folder with ``train_metadata.csv``, ``train_labels.csv`` (or ``.gz``) and the recordings in
        ``train/`` or their clips in ``store/``.
    clips : Path, optional
        An existing store of the clips.

    Raises
    ------
    InputError
        If tables are missing or wrong, or too few recordings are left.
    StoreError
        If a store is damaged.
    """
    metadata = read_metadata(_table(data, "train_metadata.csv"))
    path, group = _table(data, "train_labels.csv"), recipe.data.group
    if group and group not in metadata:  # such as mouse
        labels, column = read_table(path, group, BY_RECORDING)
        catalog = select.join_labels(metadata, labels)
        catalog[group] = select.sorted_by_name(labels)[column]
    else:
        catalog = select.join_labels(metadata, read_labels(path))
    if clips is not None:
        find.refuse_other_simulation(path, [clips])
    elif (data / "store" / store.MANIFEST_NAME).is_file():
        clips = data / "store"
    table, selected = _select(recipe, catalog)
    sources = [Source(name, data / "train" / name) for name in table["filename"]]
    return LabelledRecordings(
        table=table,
        selected=selected,
        sources=() if clips else tuple(sources),
        clips=Store(clips) if clips else None,
        simulated=(data / find.SIMULATION).is_file(),
    )


def from_table(
    recipe: Recipe, recordings: Sequence[str | Path], labels: Path
) -> LabelledRecordings:
    """Select recordings by a table of labels.

    Parameters
    ----------
    recipe : Recipe
        The experiment. The table needs the column ``data.group``, if the recipe names one.
    recordings : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store of their clips.
    labels : Path
        Table of labels, as `tables.read_labels` takes it.

    Raises
    ------
    InputError
        If labels or recordings are unusable, or a labelled recording is not among them.
    """
    needy = [rule for rule in _rules(recipe) if set(select.RULES[rule].needs) - {"stalled"}]
    if needy:
        raise InputError(
            f"the recipe {recipe.name} selects recordings by the rule {needy[0]}, which needs the "
            "competition's tables (--data). Use all labelled recordings (--set data.rule=all), or "
            "another recipe"
        )
    table, column = read_table(labels, recipe.data.group, BY_RECORDING, warn_of_mice=True)
    found = find_labelled(recordings, table.rename(columns={column: recipe.data.group}), labels)
    chosen, selected = _select(recipe, found.table)
    return replace(found.only(chosen["filename"]), selected=selected)


def find_labelled(
    recordings: Sequence[str | Path], table: pd.DataFrame, labels: Path
) -> LabelledRecordings:
    """Find the recordings of a table of labels; the result names them as they were found.

    Raises
    ------
    InputError
        If a labelled recording is not among `recordings`.
    """
    find.refuse_other_simulation(labels, recordings)
    clips = store.open_if_store(recordings)
    if clips is None:
        sources = {source.filename: source for source in find.list_recordings(recordings)}
    else:
        sources = {row.filename: row.source for row in clips.rows()}
    available = pd.Series(list(sources), dtype=table["filename"].dtype)
    labelled_as = match(available, table["filename"], labels)
    filename_of = dict(zip(labelled_as, available, strict=True))
    missing = [name for name in table["filename"] if name not in filename_of]
    if missing:
        hint = ""
        if len(filename_of) < 2:
            hint = names.contrast(list(sources), table["filename"].tolist())
        raise InputError(
            f"{labels}: {len(missing):,} of {len(table):,} labelled recordings were not found: "
            f"{listed(missing)}{f' ({hint})' if hint else ''}. Name each by its path below the "
            "folder of recordings"
        )
    table = table.assign(filename=[filename_of[name] for name in table["filename"]])
    return LabelledRecordings(
        table=table,
        selected={"all": set(table["filename"])},
        sources=() if clips else tuple(sources[name] for name in table["filename"]),
        clips=clips,
        simulated=find.are_simulated(recordings),
    )


def read_table(
    labels: Path,
    group: str | None,
    by_recording: str = "--group ''",
    *,
    warn_of_mice: bool = False,
) -> tuple[pd.DataFrame, str]:
    """Read filenames, labels and the group column as text; return the table and that column.

    Parameters
    ----------
    labels : Path
        Table of labels, as `tables.read_labels` takes it.
    group : str or None
        Column whose values form the groups, or "" for none. None takes the first of
        `MOUSE_COLUMNS` with at least `FEWEST_GROUPS` different values.
    by_recording : str
        The option that splits by recording, for messages.
    warn_of_mice : bool
        Warn if there is a column of mice although `group` is empty: nobody may have decided that.

    Raises
    ------
    InputError
        If the table is wrong, or the column is missing or has empty cells.
    """
    cells = text.read(labels, LABELS)
    table = labels_of(cells)
    say_understood(cells, table)

    def column(name: str) -> list[str] | None:
        if cells.header.count(name) > 1:
            raise InputError(f"{labels}: has two columns {name}. Rename one of them")
        return cells.column(name) if name in cells.header else None

    if group is None:
        group = groups.find_column(column, FEWEST_GROUPS)
        if not group:
            log.warning(
                "%s: no column (such as %s) names at least %d mice, so recordings of one mouse may "
                "be both trained on and held out, and the comparison is optimistic",
                labels,
                MOUSE_COLUMNS[0],
                FEWEST_GROUPS,
            )
    elif not group and warn_of_mice:
        _warn_of_mice(labels, column)
    group = group.lower()  # headers are read in lower case
    if group in table:
        raise InputError(
            f"{labels}: the column {group} names no groups of recordings. Choose another column, "
            f"or split by recording with {by_recording}"
        )
    if group:
        values = column(group)
        if values is None:
            raise InputError(
                f"{labels}: has no column {group}. Choose another column, or split by recording "
                f"with {by_recording}"
            )
        rows = table.index
        lines = [f"line {cells.lines[row]} ({cells.filenames[row]})" for row in rows]
        remedy = f"fill it in, or split by recording with {by_recording}"
        checked = groups.check_cells(labels, group, [values[row] for row in rows], lines, remedy)
        _refuse_two_groups(cells, group, values)
        table = table.assign(**{group: checked})
    return table.reset_index(drop=True), group


def _warn_of_mice(labels: Path, column: Callable[[str], Sequence[str] | None]) -> None:
    if mice := groups.find_column(column, 2):
        log.warning(
            "%s: split by recording, although the column %s is there, so recordings of one mouse "
            "may be both trained on and held out, and the figures are optimistic",
            labels,
            mice,
        )


def _refuse_two_groups(cells: text.Text, group: str, values: Sequence[str]) -> None:
    """Raise InputError if rows of one recording name different groups."""
    first: dict[str, int] = {}
    for row, name in enumerate(names.forms(cells.filenames)):
        before = first.setdefault(name, row)
        if values[before] != values[row]:
            raise InputError(
                f"{cells.path}: {name} has different values of {group} on lines "
                f"{cells.lines[before]} and {cells.lines[row]}. Keep one of the rows"
            )


def _rules(recipe: Recipe) -> list[str]:
    """Return the rules by which a recipe selects recordings; raise SettingsError if unknown."""
    rules = {recipe.data.rule, *(stage.rule for stage in recipe.training.stages)} - {""}
    for rule in rules:
        select.check_rule(rule)
    return sorted(rules)


def _select(recipe: Recipe, catalog: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, set[str]]]:
    """Return the rows that any rule of the recipe selects, and the filenames that each selects."""
    if recipe.training.targets == "crowd":
        select.check_columns(catalog, ["crowd_score"], "training.targets crowd")
    selected = {
        rule: set(select.select(catalog, rule, recipe.data_seed)["filename"])
        for rule in _rules(recipe)
    }
    wanted = catalog[catalog["filename"].isin(set().union(*selected.values()))]
    if recipe.data.limit:
        wanted = split.limit(wanted, recipe.data.limit, recipe.data_seed)
    return wanted, selected


def _table(data: Path, name: str) -> Path:
    for path in (data / name, data / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{data}: {name} is missing. Name a folder with train_metadata.csv, train_labels.csv and "
        "either the recordings in train/ or their clips in store/ (for a store elsewhere: "
        "--store), or name recordings and a table of labels (--labels)"
    )
