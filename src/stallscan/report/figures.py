"""Plots of an evaluation.

They avoid pyplot, which has global state and looks for a display. The colours of Okabe and Ito
(2008) can be distinguished with any colour vision; the lines also differ in their dashes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from stallscan import words
from stallscan.report import svg
from stallscan.report.style import (
    BLACK,
    BLUE,
    CELL,
    FLOWING,
    GREEN,
    GREY,
    ON_CELL,
    SIZE_INCHES,
    STALLED,
    STYLE,
    VERMILION,
    add_legend,
    add_subtitle,
    as_svg,
    new_axes,
    save,
    square_axes,
)
from stallscan.scores import bootstrap, curves, metrics
from stallscan.scores.bootstrap import Curve
from stallscan.scores.metrics import Floats, Metrics, Scored

BINS = np.arange(41) / 40  # edges of 40 bins of scores
# The vertical axis is logarithmic if the highest bar exceeds the lowest by more than this factor.
# On a linear axis, the lowest would be invisible.
LOG_RATIO = 200
# Curves are thinned to this many points, because more cannot be seen.
CURVE_POINTS = 1000
# If there are more thresholds than this (in a table joined from many runs), none is drawn.
MOST_THRESHOLDS = 3
# Descriptions of the plots, for screen readers.
WORDS = {
    "confusion": "Confusion matrix of calls against labels",
    "scores": "Histogram of the scores with the threshold",
    "roc": "ROC curve",
    "precision_recall": "Precision against recall",
    "thresholds": "MCC, accuracy, precision, recall and F1 against the threshold",
    "reliability": "Share of stalled against the score, and number of recordings by score",
    "mcc_by_prevalence": "MCC against the prevalence of stalls",
}


def evaluation(
    scored: Scored,
    out: str | Path,
    curve: Curve | None = None,
    measured: Metrics | None = None,
) -> list[Path]:
    """Write the plots of an evaluation into the folder `out`, each as PNG and SVG.

    Parameters
    ----------
    scored : Scored
        The evaluated recordings.
    out : str or Path
        The folder; created if necessary.
    curve : Curve, optional
        MCC against prevalence. By default computed by resampling single recordings.
    measured : Metrics, optional
        The metrics of `scored`, if they are already computed.

    Returns
    -------
    list of Path
        The files, named after the keys of `WORDS`.

    Raises
    ------
    InputError
        If the folder cannot be created or written.
    """
    return save(evaluation_figures(scored, curve, measured), out)


def evaluation_figures(
    scored: Scored, curve: Curve | None = None, measured: Metrics | None = None
) -> dict[str, Figure]:
    """Draw the plots of an evaluation, named as in `WORDS`; parameters as in `evaluation`."""
    if measured is None:
        measured = metrics.measure(scored)
    if curve is None:
        curve = bootstrap.mcc_curve(bootstrap.smoothed_rates(measured.confusion), measured)
    return {
        "confusion": confusion(scored, measured),
        "scores": score_histogram(scored.scores, scored.thresholds, scored.labels),
        "roc": roc(scored, measured),
        "precision_recall": precision_recall(scored, measured),
        "thresholds": by_threshold(scored),
        "reliability": reliability(scored),
        "mcc_by_prevalence": mcc_by_prevalence(curve, measured),
    }


def confusion(scored: Scored, measured: Metrics | None = None) -> Figure:
    """Draw the confusion matrix, shaded by the share of each label."""
    if measured is None:
        measured = metrics.measure(scored)
    cells = measured.confusion
    # (2 labels, 2 calls)
    counts = np.array(
        [[cells.true_flowing, cells.false_stalled], [cells.missed_stalled, cells.true_stalled]]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # each row sums to 1
    figure, axes = new_axes("Confusion matrix", grid=False)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    for (row, column), share in np.ndenumerate(shares):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, color=CELL, alpha=0.05 + 0.9 * share, linewidth=0))
        text = f"{counts[row, column]:,}\n{words.percent(share)}"
        colour = ON_CELL if share > 0.6 else BLACK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    axes.set_xticks([0, 1], ["flowing", "stalled"])
    axes.set_yticks([0, 1], ["flowing", "stalled"], rotation=90, va="center")
    axes.set(xlabel="call", ylabel="label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    add_subtitle(axes, f"MCC {measured.mcc:.3f} at {words.percent(measured.prevalence)} stalled")
    return figure


def score_histogram(
    scores: Floats, thresholds: Sequence[float], labels: metrics.Bools | None = None
) -> Figure:
    """Draw a histogram of the scores, for each class if there are labels.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0 to 1.
    thresholds : sequence of float
        Thresholds, drawn as dashed lines.
    labels : ndarray, optional
        bool (N,), True for stalled.
    """
    figure, axes = new_axes("Scores")
    if labels is None:
        heights = [_bars(axes, scores, GREY, f"all (n = {len(scores):,})", share=False)]
        axes.set_ylabel("recordings")
    else:
        # Stalls are rare, so counts would hide them. As shares of its class, each class is visible.
        heights = [
            _bars(axes, of_class, colour, f"{name} (n = {len(of_class):,})", share=True)
            for of_class, colour, name in (
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
    # Set last, because a change of scale replaces the formatter.
    axes.yaxis.set_major_formatter("{x:,g}" if labels is None else _percent_tick)
    axes.set(xlabel="score (probability of stalled)", xlim=(-0.01, 1.01))
    _mark_thresholds(axes, thresholds)
    add_legend(axes)
    return figure


def roc(scored: Scored, measured: Metrics) -> Figure:
    """Draw the ROC curve and the operating point of the calls."""
    figure, axes = square_axes("ROC curve")
    axes.set(
        xlabel="flowing called stalled (1 - specificity)", ylabel="stalled called stalled (recall)"
    )
    curve = curves.roc(scored)
    if curve is None:
        return _one_class(figure, axes)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    axes.plot(*_thin(*curve), color=BLACK, label=f"scores (AUC {measured.roc_auc:.3f})")
    _mark_calls(axes, 1.0 - (measured.specificity or 0.0), measured.recall)
    add_legend(axes, "lower right")
    return figure


def precision_recall(scored: Scored, measured: Metrics) -> Figure:
    """Draw precision against recall and the operating point of the calls."""
    figure, axes = square_axes("Precision and recall")
    axes.set(
        xlabel="recall (stalled called stalled)",
        ylabel="precision (stalled calls that are correct)",
    )
    curve = curves.precision_recall(scored)
    if curve is None:
        return _one_class(figure, axes)
    chance = f"chance ({words.percent(measured.prevalence)} stalled)"
    axes.axhline(measured.prevalence, color=GREY, linestyle=":", linewidth=1, label=chance)
    recall, precision = _thin(*curve)
    axes.plot(
        recall,
        precision,
        drawstyle="steps-post",
        color=BLACK,
        label=f"scores (AUC {measured.pr_auc:.3f})",
    )
    _mark_calls(axes, measured.recall, measured.precision)
    # A poor curve passes through the lower left corner.
    add_legend(axes, "lower left" if (measured.pr_auc or 0.0) > 0.5 else "upper right")
    return figure


def by_threshold(scored: Scored) -> Figure:
    """Draw MCC, accuracy, precision, recall and F1 against the threshold."""
    figure, axes = new_axes("Metrics by threshold")
    values = curves.by_threshold(scored)
    lines = (
        ("mcc", "MCC", BLACK, "-"),
        ("accuracy", "accuracy", GREY, "-"),
        ("precision", "precision", BLUE, "--"),
        ("recall", "recall", VERMILION, "-."),
        ("f1", "F1", GREEN, (0, (1, 1))),
    )
    for key, name, colour, dash in lines:
        axes.plot(
            curves.GRID,
            values[key],
            color=colour,
            linestyle=dash,
            linewidth=2.2 if key == "mcc" else 1.4,
            label=name,
        )
    axes.set(xlabel="threshold on the score", ylabel="metric", xlim=(-0.01, 1.01))
    axes.set_ylim(min(-0.02, float(values["mcc"].min()) - 0.02), 1.02)
    _mark_thresholds(axes, scored.thresholds)
    add_subtitle(axes, f"at {words.percent(float(scored.labels.mean()))} stalled")
    add_legend(axes)
    return figure


def reliability(scored: Scored) -> Figure:
    """Draw the share of stalled against the score, and below it the number of recordings."""
    bins = curves.reliability(scored)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.set_title("Reliability")
        axes.grid(True)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="perfect calibration")
    axes.errorbar(
        [bin_.mean_score for bin_ in bins],
        [bin_.share for bin_ in bins],
        yerr=[  # (2, bins): lengths below and above the point
            [bin_.share - bin_.interval.low for bin_ in bins],
            [bin_.interval.high - bin_.share for bin_ in bins],
        ],
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
    mean_score, stalled = (
        words.percent(float(values.mean())) for values in (scored.scores, scored.labels)
    )
    add_subtitle(axes, f"mean score {mean_score}, {stalled} stalled")
    add_legend(axes, "upper left")
    edges = curves.RELIABILITY_EDGES
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
    """Draw the MCC of the calls, re-weighted to other prevalences.

    Parameters
    ----------
    curve : Curve or None
        From `bootstrap.mcc_curve`.
    measured : Metrics
        MCC and prevalence of the sample, drawn as a point.
    """
    figure, axes = new_axes("MCC by prevalence")
    axes.set(xlabel="share of stalled", ylabel="MCC of the calls")
    if curve is None:
        return _one_class(figure, axes)
    percents = 100.0 * curve.prevalence  # (K,), as curve.mcc, curve.low and curve.high
    axes.fill_between(percents, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(percents, curve.mcc, color=BLUE, label="re-weighted, 95 % interval")
    marked = np.array([share for share in metrics.PREVALENCES if share >= curve.prevalence[0]])
    # The axis is logarithmic, so interpolate over the logarithm.
    values = np.interp(np.log(marked), np.log(curve.prevalence), curve.mcc)
    axes.plot(100.0 * marked, values, "o", color=BLUE, markersize=5, markeredgecolor="white")
    for x, y in zip(100.0 * marked, values, strict=True):
        axes.annotate(f"{y:.2f}", (x, y), (5, -11), textcoords="offset points", fontsize=9)
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
    ticks = [0.1, *(100.0 * share for share in reversed(metrics.PREVALENCES)), 30.0]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(min(0.0, float(curve.low.min()) - 0.02), 1.02)
    # The curve rises to the right; a low one passes through the lower right corner.
    add_legend(axes, "lower right" if curve.mcc.min() > 0.6 else "upper left")
    return figure


def _percent_tick(share: float, _position: float) -> str:
    return words.percent(share)


def _one_class(figure: Figure, axes: Axes) -> Figure:
    """Explain on the plot why there is no curve."""
    axes.text(
        0.5, 0.5, "needs labels of both classes", ha="center", color=GREY, transform=axes.transAxes
    )
    return figure


def _bars(axes: Axes, scores: Floats, colour: str, name: str, share: bool) -> Floats:
    """Draw a histogram of counts or shares and return the heights, float64 (40,)."""
    counts, _ = np.histogram(scores, BINS)
    heights = counts / max(len(scores), 1) if share else counts.astype(np.float64)
    axes.stairs(heights, BINS, fill=True, color=colour, alpha=0.35)
    axes.stairs(heights, BINS, color=colour, linewidth=1.4, label=name)
    return np.asarray(heights, dtype=np.float64)


def _mark_thresholds(axes: Axes, thresholds: Sequence[float]) -> None:
    if not 0 < len(thresholds) <= MOST_THRESHOLDS:
        return
    # One legend entry, on the first line, names all thresholds.
    label: str | None = "threshold " + ", ".join(f"{threshold:.3g}" for threshold in thresholds)
    for threshold in thresholds:
        axes.axvline(threshold, color=BLACK, linestyle=(0, (4, 3)), linewidth=1.1, label=label)
        label = None


def _mark_calls(axes: Axes, x: float | None, y: float | None) -> None:
    """Mark the operating point of the calls, unless a coordinate is undefined."""
    if x is not None and y is not None:
        axes.plot(
            [x],
            [y],
            "o",
            color=VERMILION,
            markersize=7,
            markeredgecolor="white",
            label="these calls",
            clip_on=False,
            zorder=5,
        )


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return at most `CURVE_POINTS` evenly spaced points of a curve, including both ends."""
    if len(x) <= CURVE_POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return x[chosen], y[chosen]


def as_inline(figures: Mapping[str, Figure]) -> list[Markup]:
    """Return figures, named as in `WORDS`, as SVG elements for one page."""
    return [svg.inline(as_svg(figure), WORDS[name], name) for name, figure in figures.items()]
