"""The plot and the page of stall rates."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stallscan import __version__, runs, templates
from stallscan.files import refuse_foreign, write_text
from stallscan.rates import tables
from stallscan.rates.rates import Rates, Unit
from stallscan.report import style, svg
from stallscan.report.style import BLACK, BLUE, GREY, VERMILION

PAGE_NAME, PLOT_NAME = "rates.html", "rates"
WORDS = "Corrected stall rates of mice and groups with their 95 % intervals"
# Widths on the axis of groups, whose centres are 1 apart: the mice of one, and the offset of the
# group's own rate to their right.
SPREAD, OFFSET = 0.5, 0.36


def write_page(rates: Rates, out: str | Path, sources: dict[str, str]) -> Path:
    """Write ``rates.html`` and the plot as PNG and SVG into the folder `out`.

    Parameters
    ----------
    rates : Rates
        The rates.
    out : str or Path
        The folder.
    sources : dict
        The names of the tables behind them, for the header of the page.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds other files of these names.
    """
    drawn = draw(rates)
    page = templates.render(
        "rates.html.j2",
        sources=sources,
        headlines=tables.headlines(rates),
        notes=rates.sentences(),
        plot=svg.inline(style.as_svg(drawn), WORDS, PLOT_NAME),
        sheets=tables.sheets(rates),
        version=__version__,
    )
    with runs.hold(out) as folder:
        path = folder / PAGE_NAME
        refuse_foreign(path, ["<title>stallscan rates"], "of 'stallscan rate'")
        style.save({PLOT_NAME: drawn}, folder)
        write_text(path, page)
    return path


def draw(rates: Rates) -> Figure:
    """Draw the corrected rate of each mouse (or field, without mice) and of each group."""
    figure, axes = style.new_axes("Stall rates")
    parts = rates.mice or rates.fields
    names = [unit.group for unit in rates.groups]
    for place, unit in enumerate(rates.groups):
        members = [part for part in parts if part.group == unit.group and part.rate is not None]
        shift = OFFSET if members else 0.0
        _bars(axes, place + np.linspace(-SPREAD, SPREAD, len(members) + 2)[1:-1] * 0.6, members)
        if unit.rate is not None:
            _bars(axes, [place + shift], [unit], is_group=True)
    with mpl.rc_context(style.STYLE):  # the labels are made here
        axes.set_xticks(range(len(names)), names)
    axes.set(xlim=(-0.6, len(names) - 0.4), ylabel="stalled, corrected")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.grid(False, axis="x")
    kind = "mice" if rates.mice else "fields"
    dots = f"dots: {kind}, diamonds: groups; " if parts else ""
    style.add_subtitle(axes, f"{dots}95 % intervals")
    return figure


def _bars(
    axes: Axes, places: Sequence[float] | np.ndarray, units: Sequence[Unit], is_group: bool = False
) -> None:
    """Draw rates with their intervals, which a group of one mouse lacks, and an impossible rate."""
    for place, unit in zip(places, units, strict=True):
        if unit.rate is None:
            continue
        if interval := unit.rate.stated_interval:
            axes.plot(
                [place, place],
                list(interval),
                color=BLACK if is_group else GREY,
                linewidth=2.2 if is_group else 1.0,
                zorder=2,
            )
        axes.plot(
            [place],
            [unit.rate.estimate],
            "D" if is_group else "o",
            color=VERMILION if is_group else BLUE,
            markersize=7 if is_group else 4,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
            clip_on=False,
        )
