"""The picture of a stall-o-gram: segments by time, for print and for a screen."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stallscan.files import atomic_path
from stallscan.report.style import BLACK, DPI, GREY, LIGHT, STALLED, STYLE
from stallscan.series.stallogram import STALLED as IS_STALLED
from stallscan.series.stallogram import UNKNOWN, Stallogram, find_stalls
from stallscan.words import counted

# Colours of unknown, flowing and stalled. They differ in lightness, too, so that they are told
# apart without colours: flowing is nearly white, unknown grey, stalled dark orange.
UNKNOWN_GREY, FLOWING_LIGHT = "#a6a6a6", "#e6f1f8"
COLOURS = ListedColormap([UNKNOWN_GREY, FLOWING_LIGHT, STALLED])
WIDTH_INCHES, ROW_INCHES = 7.2, 0.13
LEAST_INCHES, MOST_INCHES = 1.2, 8.0
# Rows are named if there are at most so many, by the last characters of longer names.
MOST_NAMED, NAME_CHARACTERS = 70, 11
# A series longer than this is shown in minutes.
MINUTES_FROM_S = 600.0


def write_picture(path: str | Path, stallogram: Stallogram, title: str) -> None:
    """Write a PNG.

    Segments that stall come first, by their first stall; those that never do follow, and segments
    that are unknown throughout come last. With more rows than pixels, a row stands for several.
    """
    order = sort_rows(stallogram)
    states = stallogram.states[order]
    count = len(states)
    tall = float(np.clip(ROW_INCHES * count, LEAST_INCHES, MOST_INCHES))
    # Margins in inches, so that the plot is the same whatever the number of rows.
    below, above = 0.75, 0.45
    high = tall + below + above
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, high))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.09, below / high, 0.875, tall / high))
        is_long = states.shape[1] * stallogram.frame_s >= MINUTES_FROM_S
        end = states.shape[1] * stallogram.frame_s / (60 if is_long else 1)
        axes.imshow(
            states,
            cmap=COLOURS,
            vmin=-1,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
            extent=(0, end, count, 0),
        )
        axes.set_title(title)
        axes.set_xlabel("time, min" if is_long else "time, s")
        axes.set_ylabel("segment")
        if count <= MOST_NAMED:
            names = [_shorten(stallogram.names[index]) for index in order]
            axes.set_yticks(np.arange(count) + 0.5, names, fontsize=6)
            axes.hlines(np.arange(1, count), 0, end, color="white", linewidth=0.5)
            axes.tick_params(axis="y", length=0)
        else:
            axes.set_yticks([])
            axes.set_ylabel(counted(count, "segment"))
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        figure.legend(
            handles=[
                Patch(facecolor=colour, edgecolor=GREY, linewidth=0.5, label=label)
                for colour, label in (
                    (STALLED, "stalled"),
                    (FLOWING_LIGHT, "flowing"),
                    (UNKNOWN_GREY, "unknown"),
                )
            ],
            loc="lower right",
            ncols=3,
            frameon=False,
            labelcolor=BLACK,
            edgecolor=LIGHT,
            bbox_to_anchor=(0.99, 0.0),
        )
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"…{name[1 - NAME_CHARACTERS :]}"


def sort_rows(stallogram: Stallogram) -> list[int]:
    """Return the rows in the order in which the picture shows them."""

    def key(index: int) -> tuple[int, float, int]:
        states = stallogram.states[index]
        if (states == UNKNOWN).all():
            return 2, 0, index
        stalls = find_stalls(states)
        if not stalls:
            return 1, 0, index
        return 0, stalls[0].first - np.count_nonzero(states == IS_STALLED) / len(states), index

    return sorted(range(len(stallogram.names)), key=key)
