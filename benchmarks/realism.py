"""Statistics of simulated recordings beside those of the real ones, measured in the same way.

Every file is decoded and its outline found as prediction does it, so that the table compares what
a user of the files sees. Of the real recordings only numbers are written, no pixels.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import cyclopts
import numpy as np
import pandas as pd
from common import HERE, markdown, publish, say, show_progress, version
from cyclopts import Parameter
from numpy.typing import NDArray

from stallscan import workers
from stallscan.clips.clip import ClipSettings, make_clip
from stallscan.errors import StallscanError
from stallscan.nets import measures
from stallscan.recordings import video
from stallscan.recordings.recording import Frames, to_grey
from stallscan.simulate import SimulateSettings, simulate
from stallscan.vessels import colours, outline
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.outline import Outline

# Nobody can see the difference from 0, and the codec makes some 1 of black.
BLACK = 1
PERCENTILES = (5, 50, 95, 99)
# A pixel belongs to the core of the line if it has the published colour in this share of the
# frames: of the untouched original this gives the width and the colour that docs/facts.md 5 states.
CORE_SHARE = 0.5

FIELD = tuple(f"field grey, {p} %" for p in PERCENTILES)
INSIDE = tuple(f"inside grey, {p} %" for p in PERCENTILES)
BLACK_SHARE = "pure black, % of the field"
FIELD_CORRELATION = "neighbouring frames, correlation (field)"
INSIDE_CORRELATION = "neighbouring frames, correlation (inside)"
AREA = "outline, px enclosed (to the middle of its line)"
WIDTH = "outline, line width px"
COLOUR = tuple(f"outline, decoded {name}" for name in ("red", "green", "blue"))
SIZE = "file, MB"
FOCUS = "frames in focus, segments in the plane"
SHARPER = "structure inside, the sharpest frame relative to the usual"
IN_FOCUS = "frames in a row with more than half of the most structure"
# In the order of the table, with the digits after the point.
STATISTICS = {
    **dict.fromkeys((*FIELD, *INSIDE), 0),
    BLACK_SHARE: 1,
    FIELD_CORRELATION: 3,
    INSIDE_CORRELATION: 3,
    AREA: 0,
    WIDTH: 2,
    **dict.fromkeys(COLOUR, 0),
    SIZE: 2,
    FOCUS: 0,
    SHARPER: 1,
    IN_FOCUS: 0,
}

Measured = dict[str, float]
# As in the recipe `baseline`.
CLIP = ClipSettings(size=64, shape="pad", channels="grey+mask")


class Real(NamedTuple):
    """A real recording, and which of its statistics compare with those of an original file."""

    file: str
    comparable: frozenset[str]


REAL = {
    "104611": Real("104611.mp4", frozenset(STATISTICS) - {FOCUS}),
    # A crop in its own size, all frames in a row: nothing is known of the field around.
    "100109": Real("100109.gif", frozenset((*INSIDE, INSIDE_CORRELATION, AREA, SHARPER, IN_FOCUS))),
    # Of copies only the bright levels compare: their palette had steps of eight, so what was dark
    # became black; resizing took noise away, and every other frame is missing; the contour was
    # painted and the file encoded anew. Less noise makes the sharpest frame stand out more.
    "105668": Real(
        "105668_stalled_from320.mp4", frozenset((*FIELD[2:], *INSIDE[2:], AREA, SHARPER))
    ),
    "200149": Real("200149_flowing.mp4", frozenset((*FIELD[2:], *INSIDE[2:], AREA, SHARPER))),
}
# What docs/facts.md 5 states of the untouched original, for where the file is not at hand.
STATED: Measured = {
    **dict(zip(FIELD, (0, 32, 128, 243), strict=True)),
    **dict(zip(INSIDE, (15, 39, 113, 179), strict=True)),
    BLACK_SHARE: 17,
    FIELD_CORRELATION: 0.92,
    INSIDE_CORRELATION: 0.82,
    WIDTH: 2.5,
    **dict(zip(COLOUR, (245, 102, 10), strict=True)),
}
# docs/facts.md 5, of all real recordings.
STATED_RANGES: dict[str, tuple[float, float]] = {AREA: (1150, 6400), SIZE: (1, 2.5), FOCUS: (6, 12)}


def main(
    out: Path | None = None,
    *,
    real: Path = HERE.parent.parent / "shared" / "real",
    count: int = 200,
    seed: int = 0,
    corpus: Path | None = None,
    page: Annotated[Path, Parameter(name="--page")] = HERE / "realism.md",
    processes: int | None = None,
) -> None:
    """Measure simulated and real recordings, and write the table.

    Parameters
    ----------
    out
        Folder for the simulated recordings, kept there; without it they are removed at the end.
    real
        Folder with clips/ of real recordings; without it the figures of docs/facts.md 5 stand in.
    count
        Recordings to simulate.
    seed
        Seed of the simulation.
    corpus
        Measure this folder, made by 'stallscan simulate', instead.
    page
        The table, a Markdown file.
    processes
        Processes; one a core if not given.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        if corpus is None:
            corpus = out or Path(temporary)
            settings = SimulateSettings(count=count, seed=seed)
            simulate(corpus, settings, processes, show_progress("simulated"))
            origin = f"{count:,} default recordings, seed {seed}"
        else:
            origin = "a given corpus"
        simulated = _measure_corpus(corpus, processes)
    origin = f"{len(simulated):,} simulated recordings ({origin}; {version()})"
    real_values = _measure_real(real)
    lead = (
        f"{origin}, beside real ones (by their number; - where a copy tells nothing about the "
        "original). Files are decoded and outlines found as prediction does it; *inside* is what "
        "the outline encloses without its line. Correlations are medians over the pairs of "
        f"neighbouring frames. Pure black is grey {BLACK} or less. Structure is the energy at the "
        "scale of capillaries (features `focus` and `frames_in_focus` of the baseline). The last "
        "column says whether the real values (where there is none, both ends of the stated range) "
        "lie between the simulated 5 % and 95 %, or which do not."
    )
    publish(page, "Simulated and real recordings", lead, [_table(simulated, real_values)])


def measure(path: Path) -> Measured:
    """Measure one file; raises StallscanError where it cannot be read or has no outline.

    Parameters
    ----------
    path : Path
        A colour recording with an outline.

    Returns
    -------
    dict
        All of `STATISTICS` but the frames in focus, which no file tells.
    """
    recording = video.read_recording(path)
    found = outline.find_outline(recording)
    frames = recording.frames
    grey = to_grey(frames)
    field, inside = ~found.contour, found.mask
    levels = _percentiles(grey[:, field])
    core, colour = _line_core(frames, found)
    clip = make_clip(recording, found, CLIP)
    look = dict(zip(measures.FEATURES, measures.measure(clip.pixels).tolist(), strict=True))
    return {
        **dict(zip(FIELD, levels, strict=True)),
        **dict(zip(INSIDE, _percentiles(grey[:, inside]), strict=True)),
        BLACK_SHARE: 100 * float((grey[:, field] <= BLACK).mean()),
        FIELD_CORRELATION: _neighbour_correlation(grey, field),
        INSIDE_CORRELATION: _neighbour_correlation(grey, inside),
        AREA: float(inside.sum() + found.contour.sum() / 2),
        WIDTH: core / _line_length_px(found),
        **dict(zip(COLOUR, colour, strict=True)),
        SIZE: path.stat().st_size / 1e6,
        # Both are logarithms.
        SHARPER: math.exp(look["focus"]),
        IN_FOCUS: math.exp(look["frames_in_focus"]),
    }


def _percentiles(grey: Frames) -> list[float]:
    # Of 256 levels a histogram is many times as fast as sorting.
    share = np.cumsum(np.bincount(grey.ravel(), minlength=256)) / grey.size
    return [float(np.searchsorted(share, percent / 100)) for percent in PERCENTILES]


def _neighbour_correlation(grey: Frames, where: Mask) -> float:
    pixels = grey[:, where].astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    spread = np.sqrt((pixels**2).sum(axis=1))
    products = (pixels[1:] * pixels[:-1]).sum(axis=1)
    # A frame without any contrast (all black) correlates with nothing.
    known = (spread[1:] > 0) & (spread[:-1] > 0)
    return float(np.median(products[known] / (spread[1:] * spread[:-1])[known]))


def _line_core(frames: Frames, found: Outline) -> tuple[int, NDArray[np.float64]]:
    """Count the pixels of the line's core, and average their colour: float64 (3,) R, G, B."""
    rule = colours.RULES["third-place"]
    pixels = frames[:, found.contour]
    follows = ((pixels >= rule.low) & (pixels <= rule.high)).all(axis=2)
    core = follows.mean(axis=0) >= CORE_SHARE
    return int(core.sum()), pixels[:, core].mean(axis=(0, 1), dtype=np.float64)


def _line_length_px(found: Outline) -> float:
    """Length of the line: halfway between the boundaries inside and outside of it."""
    inner, outer = (
        # The steps of a boundary on the grid of pixels would make it longer than it is.
        max(cv2.arcLength(cv2.approxPolyDP(contour, 1.0, True), True) for contour in contours)
        for contours in (
            cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            for area in (found.mask, found.mask | found.contour)
        )
    )
    return float(inner + outer) / 2


def _measure_corpus(corpus: Path, processes: int | None) -> pd.DataFrame:
    truth = pd.read_csv(corpus / "truth.csv")
    paths = [corpus / "train" / name for name in truth["filename"]]
    table = pd.DataFrame(_measure_all(paths, processes))
    # How long a real segment is in focus is known for those in the plane only (docs/facts.md 5).
    table[FOCUS] = truth["frames_in_focus"].where(truth["shape"] == "plane")
    return table


def _measure_all(paths: Sequence[Path], processes: int | None) -> list[Measured]:
    update = show_progress("measured")
    measured: list[Measured] = []
    for one in workers.in_order(measure, paths, processes):
        measured.append(one)
        update(len(measured), len(paths))
    return measured


def _measure_real(real: Path) -> dict[str, Measured]:
    """Measure the real recordings that are at hand, as far as they are comparable."""
    values: dict[str, Measured] = {}
    for name, (file, comparable) in REAL.items():
        path = real / "clips" / file
        if not path.is_file():
            continue
        try:
            measured = measure(path)
        except StallscanError as error:
            say(f"left out: {error}")
            continue
        values[name] = {key: measured[key] for key in measured if key in comparable}
    return values or {"104611 (as stated)": STATED}


def _table(simulated: pd.DataFrame, real: dict[str, Measured]) -> str:
    rows = []
    for name, digits in STATISTICS.items():
        known = simulated[name].dropna()
        low, median, high = np.percentile(known, (5, 50, 95)) if len(known) else [math.nan] * 3
        values = {number: round(one[name], digits) for number, one in real.items() if name in one}
        stated = STATED_RANGES.get(name, ())
        # Rounded as shown, so that nobody reads 39 as lying outside 39 to 60.
        outside = [
            number
            for number, value in (values or {f"{end:g}": end for end in stated}).items()
            if not round(low, digits) <= value <= round(high, digits)
        ]
        rows.append(
            [
                name,
                *(_show(values.get(number, math.nan), digits) for number in real),
                " to ".join(f"{end:,g}" for end in stated) or "-",
                *(_show(value, digits) for value in (low, median, high)),
                f"not {', '.join(outside)}" if outside else "yes",
            ]
        )
    head = ["statistic", *real, "stated", "simulated 5 %", "median", "95 %", "inside?"]
    return markdown(head, rows)


def _show(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


if __name__ == "__main__":
    cyclopts.run(main)
