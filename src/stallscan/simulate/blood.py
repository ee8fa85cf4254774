"""What flows in the vessels: cells along the arc length, and how they move."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stallscan.simulate.scene import F32, F64, Rng, Scene

PATTERN_STEP_UM = 0.25
PATTERN_LENGTH = 4096


@dataclass(frozen=True)
class Blood:
    """Cells of each vessel and how they move.

    Attributes
    ----------
    kind : str
        Pattern of cells in the outlined segment: cells, train, plug.
    crawls : bool
        Whether the outlined segment, if it flows, is a nearly-stalled crawl.
    plasma : ndarray
        float32 (vessels, `PATTERN_LENGTH`): brightness 0..1 along the arc length, one value for
        each `PATTERN_STEP_UM`, repeating.
    speed_um_s : ndarray
        float64 (vessels, frames): mean speed during each frame, signed.
    start_um : ndarray
        float64 (vessels, frames): how far the cells have moved when the frame starts.
    pulse : ndarray
        float64 (vessels, 3): amplitude relative to the speed (0.1..0.4), frequency in Hz (6..10,
        the same for all), phase in radians.
    """

    kind: str
    crawls: bool
    plasma: F32
    speed_um_s: F64
    start_um: F64
    pulse: F64


def draw_blood(rng: Rng, scene: Scene, frame_s: float) -> Blood:
    """Draw cells and speeds for all vessels, all of them flowing.

    Speeds are log-normal around the measured median of 110 um/s (FACTS 5), 30 um/s to 2 mm/s. One
    outlined segment in ten crawls instead: 3-6 um a frame, which over the eight or so frames in
    which a point is in focus is well over the length of a cell.

    Parameters
    ----------
    rng : Generator
        Source of cells, speeds and pulse.
    scene : Scene
        The vessels and the number of frames.
    frame_s : float
        Seconds from frame to frame.

    Returns
    -------
    Blood
        A row for each vessel, in their order in the scene.
    """
    count, frames = len(scene.vessels), scene.shape[0]
    kinds = rng.choice(["cells", "train", "plug"], size=count, p=[0.5, 0.25, 0.25])
    plasma = np.stack([draw_pattern(rng, str(kind)) for kind in kinds])
    # A cell fills a capillary; in a wider vessel plasma passes beside it.
    radius = np.array([vessel.radius_um for vessel in scene.vessels])
    filled = np.minimum(1, (3.8 / radius) ** 3).astype(np.float32)
    plasma = 1 - (1 - plasma) * filled[:, None]
    speed = np.clip(110 * np.exp(0.9 * rng.standard_normal(count)), 30, 2000)
    crawls = bool(rng.random() < 0.1)
    crawl = rng.uniform(3, 6) / frame_s
    if crawls:
        speed[0] = crawl
    speed *= rng.choice([-1, 1], count)
    each = speed[:, None] * np.clip(1 + 0.12 * rng.standard_normal((count, frames)), 0.5, 1.5)
    start = rng.uniform(0, 1000, (count, 1)) + np.cumsum(each, axis=1) * frame_s
    pulse = np.column_stack(
        [rng.uniform(0.1, 0.4, count), np.full(count, rng.uniform(6, 10)), rng.uniform(0, 7, count)]
    )
    return Blood(str(kinds[0]), crawls, plasma, each, start, pulse)


def hold(blood: Blood, length_um: int, rng: Rng) -> Blood:
    """Stall the outlined segment: its cells stay where they are, but for a jitter of 0.2 um.

    Parameters
    ----------
    blood : Blood
        From `draw_blood`.
    length_um : int
        Length of the segment.
    rng : Generator
        Source of the place where the cells have come to rest.

    Returns
    -------
    Blood
        As before, but for speed and place of vessel 0, which does not crawl.
    """
    speed, start = blood.speed_um_s.copy(), blood.start_um.copy()
    speed[0] = 0
    # Cells and plasma must both be in sight: a segment evenly bright or dark shows no stall.
    for rest in rng.uniform(0, 1000, 50):
        at = np.floor((np.arange(length_um) - rest) / PATTERN_STEP_UM).astype(int)
        dark = (blood.plasma[0, at % PATTERN_LENGTH] < 0.5).mean()
        if 0.2 < dark < 0.8:
            break
    start[0] = rest + rng.normal(0, 0.2, start.shape[1])
    return replace(blood, speed_um_s=speed, start_um=start, crawls=False)


def draw_pattern(rng: Rng, kind: str) -> F32:
    """Draw the brightness along a vessel: 1 is plasma, dark where cells fill the tube.

    Cells are 4-8 um long, the tube hematocrit is 0.2-0.45 (FACTS 5).

    Parameters
    ----------
    rng : Generator
        Source of lengths and gaps.
    kind : str
        ``cells``: each by itself; ``train``: 2-6 cells packed, then plasma; ``plug``: 8-32 um of
        packed cells with 10-32 um of bright plasma between.

    Returns
    -------
    ndarray
        float32 (`PATTERN_LENGTH`,), 0..1, one value for each `PATTERN_STEP_UM`.
    """
    whole_um = PATTERN_LENGTH * PATTERN_STEP_UM
    number = int(whole_um / 4)
    cells = rng.uniform(4, 8, number)
    gaps = _draw_gaps(rng, kind, number, cells.mean())
    starts = np.cumsum(cells + gaps) - cells
    place = (np.arange(PATTERN_LENGTH) + 0.5) * PATTERN_STEP_UM
    index = np.maximum(np.searchsorted(starts, place) - 1, 0)
    inside = (place >= starts[index]) & (place < (starts + cells)[index])
    dark = inside * rng.uniform(0.7, 0.95, number)[index] * rng.uniform(0.9, 1)
    smooth = cv2.GaussianBlur(
        (1 - dark).astype(np.float32)[None], (0, 0), 0.5 / PATTERN_STEP_UM,
        borderType=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return np.asarray(smooth[0], dtype=np.float32)


def _draw_gaps(rng: Rng, kind: str, number: int, cell_um: float) -> F64:
    if kind == "cells":
        mean = cell_um * (1 / rng.uniform(0.2, 0.45) - 1)
        return 0.8 + rng.gamma(1.5, (mean - 0.8) / 1.5, number)
    packed = rng.uniform(0.4, 1.5, number)
    runs, plasma = ((2, 7), (5, 15)) if kind == "train" else ((2, 5), (10, 32))
    ends = np.cumsum(rng.integers(*runs, size=number))
    ends = ends[ends < number]
    packed[ends] = rng.uniform(*plasma, ends.size)
    return packed
