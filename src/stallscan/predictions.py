"""Tables of predictions, read and checked, and what stands beside them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stallscan import metrics
from stallscan.errors import InputError, TableError
from stallscan.tables import (
    CHOSEN_NAME,
    HELD_OUT_NAME,
    LABEL_COLUMNS,
    OUT_OF_FOLD_NAME,
    PREDICTION_COLUMNS,
    PREDICTIONS_NAME,
    RUN_NAME,
    read_labels,
)

NUMBERS = ("frames", "frames_declared", "score", "threshold")
# The calls that can be right or wrong, and those that leave it open.
DECIDED = ("flowing", "stalled")
OPEN = ("review", "unscorable")

# How many of the recordings that were left out are listed by name.
LISTED = 5

# The tables that a folder is looked through for: of predict, and of train with folds and without.
TABLES = (PREDICTIONS_NAME, OUT_OF_FOLD_NAME, HELD_OUT_NAME)
# What is read of the latter two, which bring their labels with them.
HELD_OUT_COLUMNS = ("filename", "stalled", "score", "call", "threshold")

PREDICTIONS = "the file predictions.csv that stallscan predict writes"
ONCE = "to stand in one row only"


@dataclass(frozen=True)
class Left:
    """Recordings that were left out: how many, and the first few filenames."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, filenames: "pd.Series[str]") -> "Left":
        """Count and list `filenames`."""
        return cls(len(filenames), tuple(filenames.head(LISTED)))

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return ", ".join(self.first) + (f" and {more:,} more" if more else "")


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
        If the file is missing or has no rows.
    TableError
        If a column is missing, a filename stands there twice, a value is wrong, or a recording
        is called flowing or stalled without a score; rows are named.
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
    return _with_numbers(path, table[list(PREDICTION_COLUMNS)])


def is_held_out(table: pd.DataFrame) -> bool:
    """Tell whether a table is one of `train`, whose recordings chose the epoch and the threshold.

    Parameters
    ----------
    table : DataFrame
        As `read_text` gives it.
    """
    return not set(PREDICTION_COLUMNS) <= set(table) and set(HELD_OUT_COLUMNS) <= set(table)


def read_text(path: Path, expected: str = PREDICTIONS) -> pd.DataFrame:
    """Read a CSV table as it stands: every cell str, empty where nothing is said.

    Parameters
    ----------
    path : Path
        A file in UTF-8, gzipped if its name ends in ``.gz``.
    expected : str
        What it should be, in the words of a message.

    Raises
    ------
    InputError
        If the file cannot be opened.
    TableError
        If it is no table.
    """
    try:
        # Everything as text first, so that 007.mp4 stays itself and a wrong value can be quoted.
        # Spreadsheet programs put a byte order mark in front.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected here is {expected}") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror or error}); give {expected}"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path}: not readable as a CSV table in UTF-8 ({reason})") from None
    # Short rows, such as the last one of a copy that was cut off, come out as missing.
    return table.fillna("")


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


def match(filenames: "pd.Series[str]", known: "pd.Series[str]") -> "pd.Series[str]":
    """Find for each filename its partner among `known` (no name twice in either).

    Partners are equal; or else they have the same base name of the path, which no other filename
    on either side has.

    Returns
    -------
    Series
        str with the index of `filenames`: the partner's name, NaN where there is none.
    """
    exact = filenames.where(filenames.isin(known))
    if exact.notna().all():
        return exact
    base, known_base = _base_names(filenames), _base_names(known)
    single = ~known_base.duplicated(keep=False)
    partner = pd.Series(known[single].to_numpy(), index=known_base[single])
    near = base.where(~base.duplicated(keep=False)).map(partner)
    return exact.fillna(near)


def refuse_twice(path: Path, table: pd.DataFrame) -> None:
    """Raise TableError if a filename stands in `table` twice."""
    refuse(path, table, table["filename"].duplicated(keep=False), "filename", ONCE)


def refuse(
    path: Path, table: pd.DataFrame, wrong: "pd.Series[bool]", column: str, expected: str
) -> None:
    """Raise TableError, naming rows by their line (the header is line 1), if any is wrong.

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
        f"line {index + 2} ({filename}: {value!r})"
        if column != "filename"
        else f"line {index + 2} ({filename})"
        for index, filename, value in rows
    ]
    raise TableError(f"{path}: {column}: expected {expected}, but see {metrics.name_rows(named)}")


def _with_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    numbers = {column: pd.to_numeric(table[column], errors="coerce") for column in NUMBERS}
    for column in NUMBERS:
        garbled = numbers[column].isna() & (table[column] != "")
        refuse(path, table, garbled, column, "a number or nothing")
    for column in ("score", "threshold"):
        given = numbers[column].notna().to_numpy()
        wrong = given & metrics.bad_scores(numbers[column].to_numpy(float))
        refuse(path, table, pd.Series(wrong, table.index), column, "0 to 1")
    unfounded = table["call"].isin(DECIDED) & numbers["score"].isna()
    refuse(path, table, unfounded, "score", "a number where the call is flowing or stalled")
    return table.assign(**{name: values.astype(float) for name, values in numbers.items()})


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"


def _base_names(filenames: "pd.Series[str]") -> "pd.Series[str]":
    # Ten times as fast as pandas' own splitting.
    names = [name.rpartition("/")[2] for name in filenames]
    return pd.Series(names, filenames.index, dtype=filenames.dtype)
