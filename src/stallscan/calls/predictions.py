"""Tables of predictions, read and checked, and what stands beside them."""

import json
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.catalog import text
from stallscan.catalog.groups import MOUSE_COLUMNS
from stallscan.catalog.tables import LABEL_COLUMNS, TRAIN_COLUMNS, read_labels, refuse_rows
from stallscan.errors import InputError, TableError
from stallscan.runs import (
    CHOSEN_NAME,
    HELD_OUT_NAME,
    OUT_OF_FOLD_NAME,
    PREDICTION_COLUMNS,
    PREDICTIONS_NAME,
    RUN_NAME,
)
from stallscan.scores import metrics
from stallscan.words import listed

NUMBERS = ("frames", "frames_declared", "score", "threshold")
# The calls that can be right or wrong, and those that leave it open.
DECIDED = ("flowing", "stalled")
OPEN = ("review", "unscorable")

# The tables that a folder is looked through for: of predict, and of train with folds and without.
TABLES = (PREDICTIONS_NAME, OUT_OF_FOLD_NAME, HELD_OUT_NAME)
# What is read of the latter two, which bring their labels with them.
HELD_OUT_COLUMNS = ("filename", "stalled", "score", "call", "threshold")

PREDICTIONS = "the file predictions.csv that stallscan predict writes"
ONCE = "to stand in one row only"
# Of columns of these names there must not be two: which of them is meant nobody knows.
_ONCE_ONLY = {*PREDICTION_COLUMNS, *TRAIN_COLUMNS, *LABEL_COLUMNS, *MOUSE_COLUMNS, "field", "group"}


@dataclass(frozen=True)
class Predictions:
    """A table of predictions, and what is known of its run.

    Attributes
    ----------
    path : Path
        The table's.
    table : DataFrame
        As `read_predictions` returns it.
    run : dict
        As `read_run` returns it.
    """

    path: Path
    table: pd.DataFrame
    run: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "Predictions":
        """Read a table and its run; errors as in `read_predictions` and `read_run`."""
        path = Path(path)
        return cls(path, read_predictions(path), read_run(path))

    @property
    def has_score(self) -> NDArray[np.bool_]:
        """Whether each recording has a score that can be called, bool (N,)."""
        usable = (self.table["call"] != "unscorable") & self.table["score"].notna()
        return usable.to_numpy(bool)

    @property
    def prevalence(self) -> float | None:
        """The prevalence for which the scores are calibrated, if it is known."""
        share = self.run.get("prevalence")
        return share if isinstance(share, float) and 0 < share < 1 else None


def find_table(given: str | Path) -> Path:
    """Find the table of predictions: the file itself, or the first of `TABLES` in a folder."""
    given = Path(given)
    if not given.is_dir():
        return given
    paths = [given / name for name in TABLES]
    return next((path for path in paths if path.is_file()), paths[0])


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check ``predictions.csv``, or a table of held-out recordings of a training run.

    The latter (``validation.csv``, ``out_of_fold.csv``) has no status and names no bundle: all are
    taken as ok, and the bundle is called after the run's folder.

    Returns
    -------
    DataFrame
        One row a recording, `PREDICTION_COLUMNS` in the order of the file: filename, status,
        reason, call and bundle (str, empty where the file says nothing), frames, frames_declared,
        score and threshold (float, NaN where it says nothing). Score and threshold are within 0..1.

    Raises
    ------
    InputError
        If the file has no rows.
    TableError
        If the file is missing or no table, a column is missing, a filename stands there twice, a
        value is wrong, or a recording is called flowing or stalled without a score; rows are named.
    """
    path = Path(path)
    return check_predictions(path, read_text(path))


def check_predictions(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Check what `read_text` gave of the file at `path`; results and errors as `read_predictions`.

    For those who need its other columns, too, and would read it twice.
    """
    if is_held_out(table):
        table = table.assign(
            **dict.fromkeys(PREDICTION_COLUMNS[1:5], ""), bundle=path.resolve().parent.name
        ).assign(status="ok")
    missing = [column for column in PREDICTION_COLUMNS if column not in table]
    if missing:
        raise TableError(
            f"{path}: column {', '.join(missing)} is missing; expected the predictions.csv that "
            f"stallscan predict writes, with columns {', '.join(PREDICTION_COLUMNS)}"
        )
    if table.empty:
        raise InputError(f"{path}: holds no predictions")
    refuse_twice(path, table)
    refuse(path, table, ~table["call"].isin(DECIDED + OPEN), "call", _either(DECIDED + OPEN))
    return _with_numbers(path, table[list(PREDICTION_COLUMNS)]).reset_index(drop=True)


def is_held_out(table: pd.DataFrame) -> bool:
    """Tell whether a table is one of `train`, whose recordings chose the epoch and the threshold.

    Parameters
    ----------
    table : DataFrame
        As `read_text` gives it.
    """
    return not set(PREDICTION_COLUMNS) <= set(table) and set(HELD_OUT_COLUMNS) <= set(table)


def read_text(path: Path, expected: str = PREDICTIONS) -> pd.DataFrame:
    """Read a table as it stands: every cell str, empty where nothing is said.

    Parameters
    ----------
    path : Path
        As `text.read` takes it.
    expected : str
        What it should be, in the words of a message.

    Returns
    -------
    DataFrame
        The index is the line of the file that each row begins on.

    Raises
    ------
    TableError
        If the file cannot be opened or is no table, rows are longer or shorter than the header, or
        the last one is cut off.
    """
    return as_frame(text.read(path, expected))


def as_frame(cells: text.Text) -> pd.DataFrame:
    """Lay a table out as `read_text` gives it, for those who have read it; errors as there."""
    path = cells.path
    refuse_rows(path, cells.wrong)
    count = Counter(cells.header)
    if twice := [name for name in cells.header if count[name] > 1 and name in _ONCE_ONLY]:
        raise TableError(f"{path}: column {twice[0]} stands twice; remove or rename one of them")
    if cells.is_torn and cells.header[-1:] == ("bundle",) and cells.rows:
        _refuse_torn(path, cells)
    # Of others neither is found by its name.
    columns = {
        name if count[name] == 1 else f"{name}.{place}": text.stripped(
            map(itemgetter(place), cells.rows)
        )
        for name, place in zip(cells.header, cells.places, strict=True)
    }
    return pd.DataFrame(columns, index=pd.Index(cells.lines, name="line"), dtype=str)


def _refuse_torn(path: Path, cells: text.Text) -> None:
    """Raise TableError if the last cell of the table is the beginning of those above it."""
    *above, last = cells.column("bundle")
    if any(name != last and name.startswith(last) for name in above[-1:]):
        raise TableError(
            f"{path}: line {cells.lines[-1]} is cut off; copy the table again, or predict again"
        )


def read_run(predictions: Path) -> dict[str, Any]:
    """Read ``run.json`` beside a table of predictions; empty where there is none.

    Raises
    ------
    InputError
        If it is broken.
    """
    path = predictions.with_name(RUN_NAME)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); remove or restore it") from None
    if not isinstance(run, dict):
        raise InputError(f"{path}: does not describe a run; remove or restore it")
    return run


def read_chosen(predictions: Path) -> pd.DataFrame:
    """Read which recordings chose the threshold of a table: no figure may be reported on them.

    Returns
    -------
    DataFrame
        filename and stalled, as `tables.read_labels` gives them; no rows where nothing is noted
        beside the table.

    Raises
    ------
    TableError
        If the note is wrong.
    """
    path = predictions.with_name(CHOSEN_NAME)
    if not path.is_file():
        return pd.DataFrame(columns=list(LABEL_COLUMNS), dtype=object)
    return read_labels(path)


def refuse_twice(path: Path, table: pd.DataFrame) -> None:
    """Raise TableError if a filename stands in `table` twice."""
    refuse(path, table, table["filename"].duplicated(keep=False), "filename", ONCE)


def refuse(
    path: Path, table: pd.DataFrame, wrong: "pd.Series[bool]", column: str, expected: str
) -> None:
    """Raise TableError, naming rows by their line, if any is wrong.

    Parameters
    ----------
    path : Path
        Of the file.
    table : DataFrame
        As `read_text` gives it.
    wrong : Series
        bool, which rows are.
    column, expected : str
        Where, and what should stand there.
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
    raise TableError(f"{path}: {column}: expected {expected}, but see {listed(named)}")


def _with_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    numbers = {column: pd.to_numeric(table[column], errors="coerce") for column in NUMBERS}
    for column in NUMBERS:
        garbled = numbers[column].isna() & (table[column] != "")
        refuse(path, table, garbled, column, "a number or nothing")
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
