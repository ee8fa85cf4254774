"""Read and check tables of predictions and the files beside them."""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import documents
from stallscan.catalog import text
from stallscan.catalog.groups import MOUSE_COLUMNS
from stallscan.catalog.tables import LABEL_COLUMNS, TRAIN_COLUMNS, labels_of, refuse_rows
from stallscan.errors import InputError, TableError
from stallscan.recordings.find import are_simulated, refuse_other_simulation
from stallscan.runs import (
    CHOSEN_NAME,
    HELD_OUT_NAME,
    LEARNED,
    OUT_OF_FOLD_NAME,
    PREDICTION_COLUMNS,
    PREDICTIONS_NAME,
    RUN_NAME,
)
from stallscan.scores import metrics
from stallscan.words import listed

log = logging.getLogger("stallscan")

NUMBERS = ("frames", "frames_declared", "score", "threshold")
# Calls that can be right or wrong, and calls that leave the question open.
DECIDED = ("flowing", "stalled")
OPEN = ("review", "unscorable")

# Tables to look for in a folder: of predict, of train with folds, and of train without.
TABLES = (PREDICTIONS_NAME, OUT_OF_FOLD_NAME, HELD_OUT_NAME)
# Columns read from the latter two, which contain their labels.
HELD_OUT_COLUMNS = ("filename", "stalled", "score", "call", "threshold")

# For whoever is about to believe a call of such a model.
SIMULATED = "The model has learned from simulated recordings only"

PREDICTIONS = "the file predictions.csv that stallscan predict writes"
ONCE = "a name that no other row has"
# Each of these columns may occur once only: with two it is unclear which one is meant.
_ONCE_ONLY = {*PREDICTION_COLUMNS, *TRAIN_COLUMNS, *LABEL_COLUMNS, *MOUSE_COLUMNS, "field", "group"}


@dataclass(frozen=True)
class Predictions:
    """A table of predictions and the description of its run."""

    path: Path
    table: pd.DataFrame  # as `read_predictions` returns it
    run: dict[str, Any]  # as `read_run` returns it

    @classmethod
    def read(cls, path: str | Path) -> "Predictions":
        """Read a table and its run; errors as in `read_predictions` and `read_run`."""
        path = Path(path)
        cells, run = read_text(path), read_run(path)
        table = check_predictions(path, cells)
        if is_held_out(cells, run):
            run["held_out"] = True
        warn_if_unfinished(path, run, len(table))
        return cls(path, table, run)

    @property
    def has_score(self) -> NDArray[np.bool_]:
        """Whether each recording has a score that can be called, bool (N,)."""
        usable = (self.table["call"] != "unscorable") & self.table["score"].notna()
        return usable.to_numpy(bool)

    @property
    def was_learned(self) -> NDArray[np.bool_]:
        """Whether the bundle has learned from each recording, as far as known, bool (N,)."""
        return was_learned(self.table).to_numpy(bool)

    @property
    def prevalence(self) -> float | None:
        """The prevalence for which the scores are calibrated, if it is known."""
        share = self.run.get("prevalence")
        return share if isinstance(share, float) and 0 < share < 1 else None


def find_table(given: str | Path) -> Path:
    """Return the path of a table: the given file, or the first of `TABLES` in a folder."""
    given = Path(given)
    if not given.is_dir():
        return given
    paths = [given / name for name in TABLES]
    return next((path for path in paths if path.is_file()), paths[0])


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check ``predictions.csv``, or the table of held-out recordings of a training run.

    The latter (``validation.csv``, ``out_of_fold.csv``) has no status and names no bundle: every
    status becomes ok, and the bundle is named after the run's folder.

    Returns
    -------
    DataFrame
        One row per recording in the order of the file, with `PREDICTION_COLUMNS`: filename, status,
        reason, call and bundle (str, empty if missing), frames, frames_declared, score and
        threshold (float, NaN if missing). Score and threshold are within 0..1.

    Raises
    ------
    InputError
        If the file has no rows.
    TableError
        If the file is missing or not a table, a column is missing, a filename occurs twice, a value
        is invalid, or a recording is called flowing or stalled without a score. The message names
        the rows.
    """
    path = Path(path)
    return check_predictions(path, read_text(path))


def check_predictions(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Check a table that `read_text` returned; results and errors as in `read_predictions`.

    Callers that also need other columns use this to avoid reading the file twice.
    """
    if _is_of_training(table):
        table = table.assign(
            **dict.fromkeys(PREDICTION_COLUMNS[1:5], ""), bundle=path.resolve().parent.name
        ).assign(status="ok")
    missing = [column for column in PREDICTION_COLUMNS if column not in table]
    if missing:
        raise TableError(
            f"{path}: column {', '.join(missing)} is missing. Give the predictions.csv that "
            f"stallscan predict writes, with the columns {', '.join(PREDICTION_COLUMNS)}"
        )
    if table.empty:
        raise InputError(f"{path}: holds no predictions")
    refuse_twice(path, table)
    refuse(path, table, ~table["call"].isin(DECIDED + OPEN), "call", _either(DECIDED + OPEN))
    return _with_numbers(path, table[list(PREDICTION_COLUMNS)]).reset_index(drop=True)


def is_held_out(table: pd.DataFrame, run: Mapping[str, Any]) -> bool:
    """Return whether the recordings of a table chose epoch and threshold of the training.

    `train` wrote such a table, or `decide` made one from it, whose `run` says so.
    """
    return _is_of_training(table) or run.get("held_out") is True


def _is_of_training(table: pd.DataFrame) -> bool:
    return not set(PREDICTION_COLUMNS) <= set(table) and set(HELD_OUT_COLUMNS) <= set(table)


def read_text(path: Path, expected: str = PREDICTIONS) -> pd.DataFrame:
    """Read a table without converting it: every cell is a str, empty if missing.

    Parameters
    ----------
    path : Path
        The file, also gzipped.
    expected : str
        What the file should be, for error messages.

    Returns
    -------
    DataFrame
        Indexed by the line of the file on which each row begins.

    Raises
    ------
    TableError
        If the file cannot be opened or is not a table, rows are longer or shorter than the header,
        or the last row is cut off.
    """
    return as_frame(text.read(path, expected))


def as_frame(cells: text.Text) -> pd.DataFrame:
    """Convert the cells of a file to the table that `read_text` returns; errors as there."""
    path = cells.path
    refuse_rows(path, cells.wrong)
    count = Counter(cells.header)
    if twice := [name for name in cells.header if count[name] > 1 and name in _ONCE_ONLY]:
        raise TableError(f"{path}: column {twice[0]} occurs twice. Remove or rename one of them")
    if cells.is_torn and cells.header[-1:] == ("bundle",) and cells.rows:
        _refuse_torn(path, cells)
    # Other columns that occur twice are renamed, so that neither is found by its name.
    columns = {
        name if count[name] == 1 else f"{name}.{place}": text.stripped(
            map(itemgetter(place), cells.rows)
        )
        for name, place in zip(cells.header, cells.places, strict=True)
    }
    return pd.DataFrame(columns, index=pd.Index(cells.lines, name="line"), dtype=str)


def _refuse_torn(path: Path, cells: text.Text) -> None:
    """Raise TableError if the last cell is a shortened copy of the cell above it."""
    *above, last = cells.column("bundle")
    if any(name != last and name.startswith(last) for name in above[-1:]):
        raise TableError(
            f"{path}: line {cells.lines[-1]} is cut off. Copy the table again, or predict again"
        )


def read_run(predictions: Path) -> dict[str, Any]:
    """Read ``run.json`` beside a table of predictions; return an empty dict if there is none.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path = predictions.with_name(RUN_NAME)
    try:
        run = documents.read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}). Remove or restore it") from None
    if not isinstance(run, dict) or not _is_decision(run.get("decision", {})):
        raise InputError(f"{path}: does not describe a run. Remove or restore it")
    return run


def decided_from(predictions: Path, run: Mapping[str, Any]) -> list[Path]:
    """Return the tables that a decision was made from, where they are now, the oldest first.

    Each is looked for where it lay relative to the decision, so that a study can be moved or
    copied, and then at its former path, which is returned if it is at neither place. Empty if
    `run`, which `read_run` read beside the table, is not of a decision.
    """
    decision = run.get("decision", {})
    paths = decision.get("tables", [])
    # Older decisions have only the full paths.
    relative = decision.get("tables_relative") or paths
    folder = predictions.resolve().parent
    near = [Path(os.path.normpath(folder / path)) for path in relative]
    return [here if here.is_file() else Path(path) for path, here in zip(paths, near, strict=False)]


def is_on_labels(decision: Mapping[str, Any]) -> bool:
    """Return whether labels chose the threshold of a decision, or of one that it was kept from."""
    # Older decisions only say whether labels chose anything, now or before.
    is_chosen = decision.get("chosen_on") and decision.get("rule") not in ("keep", "load")
    return bool(decision.get("threshold_on_labels", is_chosen))


def made_by(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes calls of the scores of a bundle, besides the threshold; empty if unknown.

    Conversions to another prevalence add up, so of them only the last prevalence counts.
    """
    if not run:
        return {}
    decision = run.get("decision", {})
    made = {
        "consistency": bool(run.get("consistency")),
        "low": decision.get("low"),
        "calibrations": [
            {name: step.get(name) for name in ("before", "calibration", "at")}
            for step in decision.get("steps", [])
            if step.get("calibration")
        ],
    }
    # That of a vote, and of scores without a run.json, is unknown.
    share = run.get("prevalence")
    return made if share is None else made | {"prevalence": share}


def warn_if_unfinished(path: Path, run: Mapping[str, Any], rows: int) -> None:
    """Warn that a table lacks recordings because its run was interrupted.

    `run` is as `read_run` returns it, and `rows` the number of rows of the table at `path`.
    """
    expected = run.get("recordings")
    if isinstance(expected, int) and rows < expected and not run.get("finished"):
        log.warning(
            "%s: has only %s of %s recordings, because the run was not finished. Repeat the "
            "command that made it; it resumes",
            path,
            f"{rows:,}",
            f"{expected:,}",
        )


def _is_decision(content: Any) -> bool:
    """Return whether the entry ``decision`` of a run is such as `decide` writes it."""
    if not isinstance(content, dict) or not isinstance(content.get("low"), float | None):
        return False
    return all(
        isinstance(content.get(name, []), list)
        and all(isinstance(each, kind) for each in content.get(name, []))
        for name, kind in (("tables", str), ("tables_relative", str), ("steps", dict))
    )


def was_learned(table: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each row whether its bundle has learned from the recording, as far as known."""
    return table["reason"].str.contains(LEARNED, regex=False)


def is_simulated(run: dict[str, Any]) -> bool:
    """Whether the bundle of a run has learned from simulated recordings only."""
    return run.get("simulated_training") is True


def stack_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return of which raw stack the recordings of a run are regions; empty if of none.

    The entries are ``name`` (of the file), ``axis`` (depth or time), ``regions`` (their number) and
    ``source`` (the file with the regions; empty if they were found in the stack).
    """
    stack = run.get("stack")
    kinds = {"name": str, "axis": str, "regions": int, "source": str}
    if not isinstance(stack, dict) or not all(
        isinstance(stack.get(name), kind) for name, kind in kinds.items()
    ):
        return {}
    return stack


def of_simulated(run: dict[str, Any]) -> bool:
    """Whether the recordings of a run are simulated, as far as their folders tell."""
    return are_simulated(_paths(run))


def refuse_other_tables(run: dict[str, Any], *tables: str | Path) -> None:
    """Raise InputError if a table is of another simulated corpus than the recordings of a run."""
    for table in tables:
        refuse_other_simulation(table, _paths(run))


def _paths(run: dict[str, Any]) -> list[str]:
    paths = run.get("paths")
    if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
        return paths
    return []


def read_chosen(predictions: Path) -> pd.DataFrame:
    """Read which recordings chose the threshold of a table. Figures must not be reported on them.

    Returns
    -------
    DataFrame
        filename and stalled, as from `tables.read_labels`; empty without ``chosen_on.csv`` beside
        the table.

    Raises
    ------
    TableError
        If that file is invalid.
    """
    path = predictions.with_name(CHOSEN_NAME)
    if not path.is_file():
        return pd.DataFrame(columns=list(LABEL_COLUMNS), dtype=object)
    return labels_of(text.read(path)).reset_index(drop=True)


def refuse_twice(path: Path, table: pd.DataFrame) -> None:
    """Raise TableError if a filename occurs twice."""
    refuse(path, table, table["filename"].duplicated(keep=False), "filename", ONCE)


def refuse(
    path: Path, table: pd.DataFrame, wrong: "pd.Series[bool]", column: str, expected: str
) -> None:
    """Raise TableError if any row is wrong, and name these rows by their line.

    The message says what `column` is expected to contain.
    """
    if not wrong.any():
        return
    rows = table.loc[wrong, ["filename", column]].itertuples(name=None)
    named = [
        f"line {index} ({filename}: {value!r})"
        if column != "filename"
        else f"line {index} ({filename})"
        for index, filename, value in rows
    ]
    raise TableError(f"{path}: {column}: expected {expected}, got {listed(named)}")


def _with_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    pointed = table[list(NUMBERS)].apply(lambda cells: cells.map(text.with_point))
    numbers = {column: pd.to_numeric(pointed[column], errors="coerce") for column in NUMBERS}
    for column in NUMBERS:
        garbled = numbers[column].isna() & (table[column] != "")
        expected = "a number or nothing"
        if table.loc[garbled, column].str.contains(",").any():
            expected += " (with a decimal point, without a mark for thousands)"
        refuse(path, table, garbled, column, expected)
    for column in ("frames", "frames_declared"):
        odd = numbers[column].notna() & ~numbers[column].between(0, 1e9)
        refuse(path, table, odd, column, "a count or nothing")
    for column in ("score", "threshold"):
        given = numbers[column].notna().to_numpy()
        wrong = given & metrics.bad_scores(numbers[column].to_numpy(float))
        refuse(path, table, pd.Series(wrong, table.index), column, "0 to 1")
    unfounded = table["call"].isin(DECIDED) & numbers["score"].isna()
    refuse(path, table, unfounded, "score", "a number where the call is flowing or stalled")
    return table.assign(**{name: values.astype(float) for name, values in numbers.items()})


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"
