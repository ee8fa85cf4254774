"""The style of all plots, and saving them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stallscan.files import atomic_path, make_folder, refuse_foreign

BLACK, GREY, LIGHT = "#1a1a1a", "#6b6b6b", "#dcdcdc"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
FLOWING, STALLED = BLUE, VERMILION
# Of tables: a ground and the text on it, the same on a light and on a dark page.
CELL, ON_CELL = "#0b5c94", "#fdfdfd"
# The variables of page.css for the colours of plots.
VARIABLES = {
    BLACK: "--ink",
    GREY: "--quiet",
    LIGHT: "--line",
    "#ffffff": "--paper",
    BLUE.lower(): "--blue",
    VERMILION.lower(): "--vermilion",
    GREEN.lower(): "--green",
}
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
    # Names of groups and files may contain dollar signs.
    "text.parse_math": False,
    # A fixed salt makes the identifiers in an SVG reproducible.
    "svg.hashsalt": "stallscan",
}
SIZE_INCHES = (5.2, 4.0)
DPI = 200


def save(figures: Mapping[str, Figure], out: str | Path) -> list[Path]:
    """Write figures into the folder `out` under their names, each as PNG and SVG."""
    folder = make_folder(out)
    paths = {
        folder / f"{name}.{suffix}": figure
        for name, figure in figures.items()
        for suffix in ("png", "svg")
    }
    for path in paths:
        refuse_foreign(path, ["Matplotlib"], "a stallscan plot")
    for path, figure in paths.items():
        with atomic_path(path) as temporary:
            _save(figure, temporary, path.suffix[1:])
    return list(paths)


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG file whose text is text, for `svg.inline`."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        _save(figure, buffer, "svg")
    return buffer.getvalue()


def new_axes(title: str, grid: bool = True) -> tuple[Figure, Axes]:
    """Create a figure with a title and one pair of axes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_title(title)
        axes.grid(grid)
    return figure, axes


def square_axes(title: str) -> tuple[Figure, Axes]:
    """Create a square plot with both axes from 0 to 1."""
    figure, axes = new_axes(title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def add_subtitle(axes: Axes, text: str) -> None:
    """Write a short text to the right of the title."""
    axes.set_title(text, loc="right", fontsize=9, fontweight="normal", color=GREY)


def add_legend(
    axes: Axes,
    where: Literal["best", "lower left", "lower right", "upper left", "upper right"] = "best",
) -> None:
    """Add a legend in our style."""
    with mpl.rc_context(STYLE):
        axes.legend(loc=where)


def _save(figure: Figure, target: Any, suffix: str) -> None:
    # By default, an SVG contains its date, so the same plot would give another file.
    metadata = {"Date": None} if suffix == "svg" else None
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=suffix, dpi=DPI, metadata=metadata)
