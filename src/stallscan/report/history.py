"""The plot of a training run: losses, validation metrics and learning rate by epoch."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stallscan.errors import InputError, TableError
from stallscan.report.style import (
    BLACK,
    BLUE,
    GREY,
    SIZE_INCHES,
    STYLE,
    VERMILION,
    save,
)
from stallscan.runs import HISTORY_COLUMNS


def draw_history(history_csv: str | Path, out: str | Path) -> list[Path]:
    """Write the plot of a training run, ``history.png`` and ``history.svg``, into the folder `out`.

    Parameters
    ----------
    history_csv : str or Path
        Table with the columns `HISTORY_COLUMNS` and one row per epoch. Cells may be empty.
    out : str or Path
        The folder; created if necessary.

    Raises
    ------
    InputError
        If the file is missing, or the folder cannot be created or written.
    TableError
        If the table cannot be read, lacks a column, has no rows, or contains text.
    """
    return save({"history": _history_figure(_read_history(Path(history_csv)))}, out)


def _read_history(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path}: is not a readable CSV table ({reason})") from None
    missing = [column for column in HISTORY_COLUMNS if column not in table]
    if missing:
        raise TableError(
            f"{path}: column {', '.join(missing)} is missing. Give the history.csv of a training "
            f"run, with columns {', '.join(HISTORY_COLUMNS)}"
        )
    if table.empty:
        raise TableError(f"{path}: has no epochs yet. Try again after the first epoch")
    table = table[list(HISTORY_COLUMNS)]
    textual = [str(name) for name, dtype in table.dtypes.items() if dtype.kind not in "iuf"]
    if textual:
        raise TableError(f"{path}: column {', '.join(textual)} contains text instead of numbers")
    return table


def _history_figure(table: pd.DataFrame) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE_INCHES[0] * 2.4, SIZE_INCHES[1]), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3)
        _lines(
            panels[0],
            table,
            "Loss",
            {"train_loss": ("training", BLUE, "--"), "val_loss": ("validation", VERMILION, "-")},
        )
        _lines(
            panels[1],
            table,
            "Validation",
            {
                "val_mcc": ("MCC", BLACK, "-"),
                "val_accuracy": ("accuracy", GREY, "-"),
                "val_roc_auc": ("ROC AUC", BLUE, "--"),
                "val_pr_auc": ("PR AUC", VERMILION, "-."),
            },
        )
        panels[1].set_ylim(top=1.02)
        _lines(panels[2], table, "Learning rate", {"lr": ("learning rate", BLACK, "-")})
        panels[2].yaxis.set_major_formatter("{x:.3g}")
    return figure


def _lines(
    axes: Axes, table: pd.DataFrame, title: str, lines: Mapping[str, tuple[str, str, str]]
) -> None:
    # Without markers, a run of one epoch would show nothing.
    marker = "o" if len(table) <= 30 else None
    for column, (name, colour, dash) in lines.items():
        axes.plot(
            table["epoch"],
            table[column],
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=3.5,
            label=name,
        )
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.grid(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(lines) > 1:
        axes.legend()
