"""A picture of the segments of a stack: the brightest projection, with each segment's number."""

from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stallscan.files import atomic_path, refuse_foreign
from stallscan.report.style import STYLE
from stallscan.vessels.segment import Segmented
from stallscan.vessels.slabs import Sides
from stallscan.words import counted

OVERVIEW_NAME = "overview.png"
WIDTH_INCHES, DPI = 12.0, 200
# A picture of more pixels than this shows no more.
LONGEST_PX = 2400
# Ordered in lightness; the darkest quarter is hard to see on black.
COLOURS, DARKEST = "plasma", 0.25
LARGE_COLOUR = "#56B4E9"
# The brightest vessel on a scale from black to white: darker than any line.
BRIGHTEST = 0.55
# Percentiles of the projection that are drawn black and white.
BLACK, WHITE = 1, 99.7
# Points about 1 um apart that are drawn in one colour. In a stack of 2 GB, a colour for each needs
# 170 MB more.
PIECE_POINTS = 8
# chosen: a number on a shorter segment would hide it
NUMBERED_UM = 15.0


def write_overview(
    path: Path, brightest: NDArray[Any], segmented: Segmented, um_per_voxel: Sides
) -> None:
    """Write a PNG: segments in the colour of their depth, and large vessels outlined in blue.

    Parameters
    ----------
    path : Path
        The picture.
    brightest : ndarray
        (H, W), any numbers: the stack, projected along depth.
    segmented : Segmented
        The segments of the stack.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um.
    """
    refuse_foreign(path, ["Matplotlib"], "an overview of segments")
    height, width = brightest.shape
    aspect = um_per_voxel[1] / um_per_voxel[2]
    inches = WIDTH_INCHES * min(max(height * aspect / width, 0.2), 3.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES + 1.2, inches + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.grid(False)
        axes.imshow(
            _as_grey(brightest),
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            aspect=aspect,
        )
        _draw_large(axes, segmented, height, width)
        _draw_capillaries(figure, axes, segmented, um_per_voxel)
        _draw_bar(axes, um_per_voxel, height, width)
        orders = [each.branch_order for each in segmented.capillaries]
        connected = sum(order is not None for order in orders)
        axes.set_title(
            f"{counted(len(orders), 'capillary segment')}, {connected:,} of them connected to a "
            "large vessel (blue: left out)",
            wrap=True,
        )
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def _as_grey(brightest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch the contrast, and brighten dim vessels."""
    step = max(1, max(brightest.shape) // LONGEST_PX)
    shown = (
        cv2.resize(brightest, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
        if step > 1
        else brightest
    )
    black, white = np.percentile(shown, [BLACK, WHITE])
    # The square root shows vessels of a tenth of the brightness.
    level = np.sqrt(np.clip((shown - black) / max(white - black, 1e-6), 0, 1))
    return np.asarray(BRIGHTEST * level, np.float32)


def _draw_large(axes: mpl.axes.Axes, segmented: Segmented, height: int, width: int) -> None:
    area = np.pad(segmented.large_area.astype(np.float32), 1)
    if area.any():
        rows, columns = segmented.large_area.shape
        y = (np.arange(-1, rows + 1) + 0.5) * height / rows - 0.5
        x = (np.arange(-1, columns + 1) + 0.5) * width / columns - 0.5
        axes.contour(x, y, area, levels=[0.5], colors=[LARGE_COLOUR], linewidths=0.8)
    lines = [line[:, :0:-1] for line in segmented.large]
    axes.add_collection(LineCollection(lines, colors=LARGE_COLOUR, linestyles=":", linewidths=1.2))


def _draw_capillaries(
    figure: Figure, axes: mpl.axes.Axes, segmented: Segmented, um_per_voxel: Sides
) -> None:
    capillaries = segmented.capillaries
    if not capillaries:
        return
    depths = np.concatenate([each.line[:, 0] for each in capillaries]) * um_per_voxel[0]
    scale = Normalize(float(depths.min()), float(max(depths.max(), depths.min() + 1)))
    colours = ListedColormap(mpl.colormaps[COLOURS](np.linspace(DARKEST, 1, 256)))
    # (n, 3): each piece begins with the last point of the one before.
    pieces = [
        each.line[start : start + PIECE_POINTS + 1]
        for each in capillaries
        for start in range(0, len(each.line) - 1, PIECE_POINTS)
    ]
    drawn = LineCollection(
        [piece[:, :0:-1] for piece in pieces], cmap=colours, norm=scale, linewidths=1.4
    )
    drawn.set_array(np.array([piece[:, 0].mean() * um_per_voxel[0] for piece in pieces]))
    axes.add_collection(drawn)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("depth, um")
    bar.ax.invert_yaxis()
    for number, each in enumerate(capillaries, start=1):
        if each.length_um < NUMBERED_UM:
            continue
        _, y, x = each.line[len(each.line) // 2]
        text = axes.text(
            x, y, f"{number}", color="white", fontsize=5, ha="center", va="center", clip_on=True
        )
        text.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def _draw_bar(axes: mpl.axes.Axes, um_per_voxel: Sides, height: int, width: int) -> None:
    """Draw a scale bar of about a sixth of the width."""
    sixth_um = width * um_per_voxel[2] / 6
    bar_um = 10 ** np.floor(np.log10(sixth_um))
    bar_um *= max(factor for factor in (1, 2, 5) if factor * bar_um <= sixth_um)
    left, bottom = 0.02 * width, 0.975 * height
    axes.plot([left, left + bar_um / um_per_voxel[2]], [bottom, bottom], color="white", linewidth=3)
    text = axes.text(left, bottom - 0.01 * height, f"{bar_um:g} um", color="white", fontsize=9)
    text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
