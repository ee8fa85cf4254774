"""Plots of an evaluation and of a training run, all in one style.

Figures are made with matplotlib's objects and without pyplot, so that nothing global is touched
and no display is looked for. Colours are those of Okabe and Ito (2008), which people with any
colour vision tell apart; lines differ in dash, too.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stallscan import words
from stallscan.catalog.tables import HISTORY_COLUMNS
from stallscan.errors import InputError, TableError
from stallscan.files import atomic_path, make_folder, refuse_foreign
from stallscan.scores import bootstrap, metrics
from stallscan.scores.bootstrap import Curve
from stallscan.scores.metrics import Floats, Metrics, Scored

BLACK, GREY, LIGHT = "#1a1a1a", "#6b6b6b", "#dcdcdc"
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
FLOWING, STALLED = BLUE, VERMILION

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "axes.titleweight": "bold",
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    # The same data give the same file.
    "svg.hashsalt": "stallscan",
}
SIZE_INCHES = (5.2, 4.0)
DPI = 200

BINS = np.arange(41) / 40
# Counts are drawn on a logarithmic scale where the fullest bin would make the others invisible.
LOG_RATIO = 200
# A curve of more points than this is thinned: no eye and no screen resolves them.
CURVE_POINTS = 2000
# More thresholds than this (tables of many runs put together) are not drawn one by one.
MOST_THRESHOLDS = 3


# What each plot of an evaluation shows, for those who cannot see it.
WORDS = {
    "confusion": "Confusion matrix of calls against labels",
    "scores": "Histogram of the scores with the threshold",
    "roc": "ROC curve",
    "precision_recall": "Precision against recall",
    "thresholds": "MCC, accuracy, precision, recall and F1 against the threshold",
    "reliability": "Share of stalled against the score, and how many recordings have each score",
    "mcc_by_prevalence": "MCC against the prevalence of stalls",
}


def evaluation(scored: Scored, out: str | Path, curve: Curve | None = None) -> list[Path]:
    """Write the plots of an evaluation into the folder `out`, each as PNG and as SVG.

    Parameters
    ----------
    scored : Scored
        The evaluated recordings.
    out : str or Path
        The folder; made if need be.
    curve : Curve, optional
        MCC against prevalence; drawn by recording if not given.

    Returns
    -------
    list of Path
        The files, called after the names in `WORDS`.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    return save(evaluation_figures(scored, curve), out)


def save(figures: Mapping[str, Figure], out: str | Path) -> list[Path]:
    """Write figures into the folder `out`, each as PNG and as SVG, by their names.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    folder = make_folder(out)
    paths = {
        folder / f"{name}.{suffix}": figure
        for name, figure in figures.items()
        for suffix in ("png", "svg")
    }
    for path in paths:
        refuse_foreign(path, ["Matplotlib"], "a plot of stallscan")
    for path, figure in paths.items():
        with atomic_path(path) as temporary:
            _save(figure, temporary, path.suffix[1:])
    return list(paths)


def evaluation_figures(scored: Scored, curve: Curve | None = None) -> dict[str, Figure]:
    """Draw the plots of an evaluation by their names in `WORDS`; arguments as for `evaluation`."""
    measured = metrics.measure(scored)
    if curve is None:
        curve = bootstrap.mcc_curve(bootstrap.smoothed_rates(measured.confusion), measured)
    return {
        "confusion": confusion(scored),
        "scores": score_histogram(scored.scores, scored.thresholds, scored.labels),
        "roc": roc(scored),
        "precision_recall": precision_recall(scored),
        "thresholds": by_threshold(scored),
        "reliability": reliability(scored),
        "mcc_by_prevalence": mcc_by_prevalence(curve, measured),
    }


def history(history_csv: str | Path, out: str | Path) -> list[Path]:
    """Write the plot of a training run, ``history.png`` and ``.svg``, into the folder `out`.

    Parameters
    ----------
    history_csv : str or Path
        Table with `HISTORY_COLUMNS`, a row an epoch; cells may be empty.
    out : str or Path
        The folder; made if need be.

    Raises
    ------
    InputError
        If the file is missing, or the folder cannot be made or written.
    TableError
        If the table cannot be read, lacks a column, has no rows, or holds text.
    """
    return save({"history": _history_figure(_read_history(Path(history_csv)))}, out)


def confusion(scored: Scored) -> Figure:
    """Draw the confusion matrix, shaded by share of each label."""
    measured = metrics.measure(scored)
    cells = measured.confusion
    counts = np.array(
        [[cells.true_flowing, cells.false_stalled], [cells.missed_stalled, cells.true_stalled]]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes("Confusion matrix", grid=False)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.25, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{words.percent(share)}"
        colour = "white" if share > 0.6 else BLACK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    axes.set_xticks([0, 1], ["flowing", "stalled"])
    axes.set_yticks([0, 1], ["flowing", "stalled"], rotation=90, va="center")
    axes.set(xlabel="call", ylabel="label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _subtitle(axes, f"MCC {measured.mcc:.3f} at {words.percent(measured.prevalence)} stalled")
    return figure


def score_histogram(
    scores: Floats, thresholds: Sequence[float], labels: metrics.Bools | None = None
) -> Figure:
    """Draw how the scores are spread, by class where labels are known, with the threshold.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0 to 1.
    thresholds : sequence of float
        Drawn as dashed lines.
    labels : ndarray, optional
        bool (N,), whether stalled.
    """
    figure, axes = _axes("Scores")
    if labels is None:
        heights = [_bars(axes, scores, GREY, f"all (n = {len(scores):,})", share=False)]
        axes.set_ylabel("recordings")
    else:
        # Stalls are rare: as shares of their class both can be seen.
        heights = [
            _bars(axes, part, colour, f"{name} (n = {len(part):,})", share=True)
            for part, colour, name in (
                (scores[~labels], FLOWING, "labelled flowing"),
                (scores[labels], STALLED, "labelled stalled"),
            )
        ]
        axes.set_ylabel("share of the class")
    filled = np.concatenate(heights)
    filled = filled[filled > 0]
    if filled.size and filled.max() > LOG_RATIO * filled.min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=filled.min() / 2)
    elif labels is None:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Set last: a change of scale brings its own.
    axes.yaxis.set_major_formatter("{x:,g}" if labels is None else _percent_tick)
    axes.set(xlabel="score (probability of stalled)", xlim=(-0.01, 1.01))
    _mark_thresholds(axes, thresholds)
    _legend(axes)
    return figure


def roc(scored: Scored) -> Figure:
    """Draw the ROC curve and where the calls as made lie on it."""
    figure, axes = _square_axes("ROC curve")
    axes.set(xlabel="flowing called stalled (1 - specificity)", ylabel="stalled called stalled")
    curve = metrics.roc(scored)
    if curve is None:
        return _one_class(figure, axes)
    measured = metrics.measure(scored)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    axes.plot(*_thin(*curve), color=BLACK, label=f"scores (AUC {measured.roc_auc:.3f})")
    _mark_calls(axes, 1.0 - (measured.specificity or 0.0), measured.recall)
    _legend(axes, "lower right")
    return figure


def precision_recall(scored: Scored) -> Figure:
    """Draw precision against recall and where the calls as made lie."""
    figure, axes = _square_axes("Precision and recall")
    axes.set(xlabel="recall (stalled called stalled)", ylabel="precision (calls that are right)")
    curve = metrics.precision_recall(scored)
    if curve is None:
        return _one_class(figure, axes)
    measured = metrics.measure(scored)
    own = words.percent(measured.prevalence)
    axes.axhline(
        measured.prevalence, color=GREY, linestyle=":", linewidth=1, label=f"chance ({own} stalled)"
    )
    recall, precision = _thin(*curve)
    axes.plot(
        recall,
        precision,
        drawstyle="steps-post",
        color=BLACK,
        label=f"scores (AUC {measured.pr_auc:.3f})",
    )
    _mark_calls(axes, measured.recall, measured.precision)
    # A poor curve runs through the lower left.
    _legend(axes, "lower left" if (measured.pr_auc or 0.0) > 0.5 else "upper right")
    return figure


def by_threshold(scored: Scored) -> Figure:
    """Draw MCC, accuracy, precision, recall and F1 against the threshold."""
    figure, axes = _axes("Metrics by threshold")
    values = metrics.by_threshold(scored)
    lines = (
        ("mcc", "MCC", BLACK, "-"),
        ("accuracy", "accuracy", GREY, "-"),
        ("precision", "precision", BLUE, "--"),
        ("recall", "recall", VERMILION, "-."),
        ("f1", "F1", GREEN, (0, (1, 1))),
    )
    for key, name, colour, dash in lines:
        axes.plot(
            metrics.GRID,
            values[key],
            color=colour,
            linestyle=dash,
            linewidth=2.2 if key == "mcc" else 1.4,
            label=name,
        )
    axes.set(xlabel="threshold on the score", ylabel="metric", xlim=(-0.01, 1.01))
    axes.set_ylim(min(-0.02, float(values["mcc"].min()) - 0.02), 1.02)
    _mark_thresholds(axes, scored.thresholds)
    _subtitle(axes, f"at {words.percent(float(scored.labels.mean()))} stalled")
    _legend(axes)
    return figure


def reliability(scored: Scored) -> Figure:
    """Draw the share of stalled against the score, and below it how many have such scores."""
    bins = metrics.reliability(scored)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.set_title("Reliability")
        axes.grid(True)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="as promised")
    scores, shares = ([getattr(one, name) for one in bins] for name in ("mean_score", "share"))
    bounds = [
        [one.share - one.interval.low for one in bins],
        [one.interval.high - one.share for one in bins],
    ]
    axes.errorbar(
        scores,
        shares,
        yerr=bounds,
        color=BLACK,
        marker="o",
        markersize=4.5,
        linewidth=1.2,
        elinewidth=1.1,
        capsize=2.5,
        label="labelled stalled (95 %)",
        clip_on=False,
    )
    axes.set(ylabel="share of stalled", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    mean = float(scored.scores.mean())
    own = words.percent(float(scored.labels.mean()))
    _subtitle(axes, f"mean score {words.percent(mean)}, {own} stalled")
    _legend(axes, "upper left")
    edges = metrics.RELIABILITY_EDGES
    counts, _ = np.histogram(scored.scores, edges)
    below.stairs(counts, edges, fill=True, color=GREY, alpha=0.35)
    below.stairs(counts, edges, color=GREY, linewidth=1.2)
    if counts.max() > LOG_RATIO * max(counts[counts > 0].min(), 1):
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
    else:
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.set(xlabel="score (probability of stalled)", ylabel="recordings")
    return figure


def mcc_by_prevalence(curve: Curve | None, measured: Metrics) -> Figure:
    """Draw the MCC that the calls have where stalls are rarer or more common.

    Parameters
    ----------
    curve : Curve or None
        From `bootstrap.mcc_curve`.
    measured : Metrics
        Marks the sample's own prevalence.
    """
    figure, axes = _axes("MCC by prevalence")
    axes.set(xlabel="share of stalled", ylabel="MCC of the calls")
    if curve is None:
        return _one_class(figure, axes)
    percents = 100.0 * curve.prevalence
    axes.fill_between(percents, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(percents, curve.mcc, color=BLUE, label="re-weighted, with 95 %")
    marked = [at for at in metrics.PREVALENCES if at >= curve.prevalence[0]]
    values = np.interp(np.log(marked), np.log(curve.prevalence), curve.mcc)
    axes.plot(
        100.0 * np.array(marked), values, "o", color=BLUE, markersize=5, markeredgecolor="white"
    )
    for at, value in zip(marked, values, strict=True):
        axes.annotate(
            f"{value:.2f}", (100.0 * at, value), (5, -11), textcoords="offset points", fontsize=9
        )
    axes.plot(
        [100.0 * measured.prevalence],
        [measured.mcc],
        "o",
        color=VERMILION,
        markersize=7,
        markeredgecolor="white",
        label=f"these recordings ({words.percent(measured.prevalence)})",
        zorder=5,
    )
    axes.set_xscale("log")
    ticks = [0.1, *(100.0 * at for at in reversed(metrics.PREVALENCES)), 30.0]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(min(0.0, float(curve.low.min()) - 0.02), 1.02)
    _legend(axes, "lower right")
    return figure


def as_data_uri(figure: Figure) -> str:
    """Give a figure as an SVG inside a ``data:`` address, for pages that stand by themselves."""
    buffer = io.BytesIO()
    _save(figure, buffer, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def as_images(figures: Mapping[str, Figure]) -> dict[str, str]:
    """Give figures of `WORDS` for a page: what each shows, and its ``data:`` address."""
    return {WORDS[name]: as_data_uri(figure) for name, figure in figures.items()}


def _read_history(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path}: not readable as a CSV table ({reason})") from None
    missing = [column for column in HISTORY_COLUMNS if column not in table]
    if missing:
        raise TableError(
            f"{path}: column {', '.join(missing)} is missing; expected the history.csv of a "
            f"training run, with columns {', '.join(HISTORY_COLUMNS)}"
        )
    if table.empty:
        raise TableError(f"{path}: holds no epoch yet")
    table = table[list(HISTORY_COLUMNS)]
    garbled = [name for name, dtype in table.dtypes.items() if dtype.kind not in "iuf"]
    if garbled:
        raise TableError(f"{path}: column {', '.join(map(str, garbled))} holds text, not numbers")
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
    # With few epochs a line alone would hide where the values are (and one is no line).
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


def _percent_tick(share: float, _position: float) -> str:
    return words.percent(share)


def _axes(title: str, grid: bool = True) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_title(title)
        axes.grid(grid)
    return figure, axes


def _square_axes(title: str) -> tuple[Figure, Axes]:
    figure, axes = _axes(title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def _subtitle(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="right", fontsize=9, fontweight="normal", color=GREY)


def _legend(
    axes: Axes,
    where: Literal["best", "lower left", "lower right", "upper left", "upper right"] = "best",
) -> None:
    with mpl.rc_context(STYLE):
        axes.legend(loc=where)


def _one_class(figure: Figure, axes: Axes) -> Figure:
    axes.text(
        0.5, 0.5, "needs labels of both classes", ha="center", color=GREY, transform=axes.transAxes
    )
    return figure


def _bars(axes: Axes, scores: Floats, colour: str, name: str, share: bool) -> Floats:
    counts, _ = np.histogram(scores, BINS)
    heights = counts / max(len(scores), 1) if share else counts.astype(np.float64)
    axes.stairs(heights, BINS, fill=True, color=colour, alpha=0.35)
    axes.stairs(heights, BINS, color=colour, linewidth=1.4, label=name)
    return np.asarray(heights, dtype=np.float64)


def _mark_thresholds(axes: Axes, thresholds: Sequence[float]) -> None:
    if not 0 < len(thresholds) <= MOST_THRESHOLDS:
        return
    for threshold in thresholds:
        axes.axvline(threshold, color=BLACK, linestyle=(0, (4, 3)), linewidth=1.1)
    named = ", ".join(f"{threshold:.3g}" for threshold in thresholds)
    axes.plot([], [], color=BLACK, linestyle=(0, (4, 3)), linewidth=1.1, label=f"threshold {named}")


def _mark_calls(axes: Axes, x: float | None, y: float | None) -> None:
    if x is not None and y is not None:
        axes.plot(
            [x],
            [y],
            "o",
            color=VERMILION,
            markersize=7,
            markeredgecolor="white",
            label="calls as made",
            clip_on=False,
            zorder=5,
        )


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    if len(x) <= CURVE_POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return x[chosen], y[chosen]


def _save(figure: Figure, target: Any, suffix: str) -> None:
    # SVG would hold the time of writing.
    metadata = {"Date": None} if suffix == "svg" else None
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=suffix, dpi=DPI, metadata=metadata)
