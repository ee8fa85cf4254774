"""Blood: patterns of cells along the arc length of the vessels, and their motion.

Definition of the label: a segment is stalled if its cells move less than `STANDING_UM` per frame in
at least `STALLED_SHARE` of the frames in which it is in focus. There are no borderline cases: the
outlined segment never moves between `STANDING_UM` and `MOVING_UM` per frame, and the share of
frames in focus in which it stands still is never between `FLOWING_SHARE` and `STALLED_SHARE`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from stallscan.simulate.scene import F32, F64, LARGE_RADIUS_UM, Rng, Scene

PATTERN_STEP_UM = 0.25
PATTERN_LENGTH = 4096
PATTERNS = 24  # chosen: enough that adjacent vessels do not look alike

STANDING_UM = 1.0  # chosen: 1/8 to 1/4 of a cell, hardly visible from frame to frame
MOVING_UM = 3.0  # chosen: well over the spacing of cells within eight frames in focus
STALLED_SHARE = 0.6  # chosen
FLOWING_SHARE = 0.3  # chosen

CELL_UM = (4.0, 8.0)  # docs/facts.md 5
HEMATOCRIT = (0.2, 0.45)  # docs/facts.md 5: tube hematocrit
SPEED_UM_S = (100.0, 9000.0)  # docs/facts.md 5: 150..8600
MEDIAN_UM_S = 1000.0  # docs/facts.md 5: clustered around 1000
SPREAD = 0.9  # chosen: standard deviation of log speed over all vessels of all recordings
SPREAD_WITHIN = 0.6  # chosen: standard deviation of log speed within one recording
LARGE_UM_S = (1000.0, 20000.0)  # chosen: vessels with mean radius above `LARGE_RADIUS_UM`
STALLED_NEIGHBOURS = 0.01  # docs/facts.md 1: 0.4 % in healthy mice, 2 % in Alzheimer's models
REVERSING_NEIGHBOURS = 0.05  # chosen

# Probabilities of the motions of flowing and of stalled segments; chosen.
FLOWING = {"flow": 0.8, "crawl": 0.08, "pause": 0.07, "reverse": 0.05}
STALLED = {"stall": 0.7, "starts": 0.1, "ends": 0.1, "creep": 0.1}


class _Kind(NamedTuple):
    """How a pattern is built, and how often it is drawn; all but the cell length is chosen."""

    body_um: tuple[float, float]  # length of a cell or plug
    run: tuple[int, int]  # cells in a row
    plasma_um: tuple[float, float]  # gap between runs
    contrast: tuple[float, float]
    outlined: float  # probability in the outlined segment
    neighbour: float  # probability in all other vessels


KINDS = {
    # The hematocrit determines the gaps between single cells.
    "cells": _Kind(CELL_UM, (1, 1), (0, 0), (0.45, 0.85), 0.4, 0.6),
    "train": _Kind(CELL_UM, (2, 8), (8, 30), (0.55, 0.9), 0.33, 0.3),
    "plug": _Kind((8, 32), (1, 1), (10, 40), (0.7, 0.95), 0.2, 0.07),
    # Runs of 40 to 150 um.
    "packed": _Kind(CELL_UM, (7, 22), (3, 12), (0.7, 0.95), 0.07, 0.03),
    # A bright, smooth vessel in which a stall shows as one or two gaps. Only a look asks for it.
    "clear": _Kind((3, 10), (1, 1), (25, 120), (0.55, 0.95), 0.0, 0.0),
}


@dataclass(frozen=True)
class Blood:
    """The cells in each vessel and their motion; vessel 0 is the outlined segment.

    The brightness of vessel v at an arc length, relative to its plasma, is
    ``1 - contrast[v] * dark[pattern[v], i]`` with
    ``i = floor((arc_um - moved_um) / PATTERN_STEP_UM) % PATTERN_LENGTH``. In frame k, t seconds
    after its start, ``moved_um = start_um[v, k] + speed_um_s[v, k] *
    (t + amplitude / omega * sin(omega * (k * frame_s + t) + phase))``, where omega is 2 pi times
    the frequency.

    Attributes
    ----------
    kind : str
        Pattern of cells in the outlined segment: a key of `KINDS`.
    motion : str
        Motion of the outlined segment: a key of `FLOWING` or `STALLED`.
    dark : ndarray
        float32 (`PATTERNS`, `PATTERN_LENGTH`): periodic patterns along the arc length, sampled
        every `PATTERN_STEP_UM`; 0 is plasma, 1 a cell.
    pattern : ndarray
        int32 (vessels,): row of `dark`. Only the outlined segment uses row 0.
    contrast : ndarray
        float32 (vessels,), 0..1: share of the plasma's light that a cell blocks.
    speed_um_s : ndarray
        float64 (vessels, frames): signed mean speed during each frame.
    start_um : ndarray
        float64 (vessels, frames): displacement of the cells at the start of each frame.
    pulse : ndarray
        float64 (vessels, 3): amplitude relative to the speed (0.1..0.4), frequency in Hz (6..10,
        the same for all vessels), phase in radians.
    frame_s : float
        Seconds from frame to frame.
    kinds : tuple of str
        Pattern of cells in each row of `dark`.
    """

    kind: str
    motion: str
    dark: F32
    pattern: NDArray[np.int32]
    contrast: F32
    speed_um_s: F64
    start_um: F64
    pulse: F64
    frame_s: float
    kinds: tuple[str, ...] = ()


def draw_blood(
    rng: Rng,
    scene: Scene,
    frame_s: float,
    focus: tuple[int, int],
    clear: float = 0.0,
    stalled_neighbours: float = STALLED_NEIGHBOURS,
) -> Blood:
    """Draw cells and speeds for all vessels of a scene, with a flowing outlined segment.

    Speeds are log-normal around `MEDIAN_UM_S`, with a random mean per recording, within
    `SPEED_UM_S`; in large vessels they are within `LARGE_UM_S`. They vary by 12 % from frame to
    frame. Some of the other vessels are stalled, and some reverse. The outlined segment moves as in
    `FLOWING`: ``crawl`` is 3-6 um per frame, ``pause`` stands still in 10-30 % of its frames in
    focus, ``reverse`` changes direction 1-4 times, at least once in focus.

    Parameters
    ----------
    rng : Generator
        Random source.
    scene : Scene
        The vessels and the number of frames.
    frame_s : float
        Seconds from frame to frame.
    focus : tuple of int
        First and last frame, counted from 0, in which the outlined segment is in focus.
    clear : float
        Share of vessels that have hardly any cells, 0..1.
    stalled_neighbours : float
        Share of the other capillaries that stand still, 0..1.
    """
    count, frames = len(scene.vessels), scene.shape[0]
    outlined, neighbour = (
        {name: share * (1 - clear) for name, share in shares.items()} | {"clear": clear}
        for shares in (
            {name: kind.outlined for name, kind in KINDS.items()},
            {name: kind.neighbour for name, kind in KINDS.items()},
        )
    )
    kinds = [_draw_key(rng, outlined)]
    kinds += rng.choice(list(neighbour), PATTERNS - 1, p=list(neighbour.values())).tolist()
    dark = draw_patterns(rng, kinds)
    pattern = rng.integers(1, PATTERNS, count, dtype=np.int32)
    pattern[0] = 0
    # The radius varies little along a vessel, so one point is enough.
    radius = np.array([vessel.radius_um[0] for vessel in scene.vessels])
    speed = _draw_speeds(rng, radius > LARGE_RADIUS_UM, frames, stalled_neighbours)
    motion = _draw_key(rng, FLOWING)
    motion, speed[0] = _draw_flow(rng, motion, speed[0], frame_s, focus)
    start = rng.uniform(0, PATTERN_LENGTH * PATTERN_STEP_UM, (count, 1)) + _add_up(speed, frame_s)
    still = ~speed.any(axis=1)
    start[still] += _draw_jitter(rng, (int(still.sum()), frames))
    pulse = np.column_stack(
        [rng.uniform(0.1, 0.4, count), np.full(count, rng.uniform(6, 10)), rng.uniform(0, 7, count)]
    )
    contrast = _draw_contrast(rng, [kinds[at] for at in pattern], radius)
    return Blood(
        kind=kinds[0],
        motion=motion,
        dark=dark,
        pattern=pattern,
        contrast=contrast,
        speed_um_s=speed,
        start_um=start,
        pulse=pulse,
        frame_s=frame_s,
        kinds=tuple(kinds),
    )


def stall(
    blood: Blood, length_um: float, focus: tuple[int, int], rng: Rng, vessel: int = 0
) -> Blood:
    """Stall a vessel, by default the outlined segment; everything else stays the same.

    It moves as in `STALLED`: ``stall`` stands still except for a jitter of 0.2 um, ``creep`` moves
    0.1-0.5 um per frame, ``starts`` flows first and stops while in focus, ``ends`` stands first and
    starts to flow. The last two stand still in 60-90 % of the frames in focus; if there are too few
    frames for that, the motion is ``stall``.

    Parameters
    ----------
    blood : Blood
        From `draw_blood`.
    length_um : float
        Length of the segment, above 0.
    focus : tuple of int
        As in `draw_blood`.
    rng : Generator
        Random source.
    vessel : int
        Index of the vessel. The result's `motion` is its motion.
    """
    first, last = focus
    motion = _draw_key(rng, STALLED)
    run = _draw_run(rng, focus, STALLED_SHARE, 0.9)
    if motion in ("starts", "ends") and not run:
        motion = "stall"
    flow = _fill_pause(blood.speed_um_s[vessel])
    standing = np.ones(flow.size, bool)
    if motion == "starts":
        standing[: last + 1 - run] = False
    elif motion == "ends":
        standing[first + run :] = False
    creep = _draw_sign(rng) * rng.uniform(0.1, 0.5) / blood.frame_s if motion == "creep" else 0.0
    moving = np.where(standing, creep, flow)
    moved = _add_up(moving, blood.frame_s)
    # A frame in focus in which the cells stand still, whatever the motion.
    at_rest = {"starts": last, "ends": first}.get(motion, (first + last) // 2)
    row = int(blood.pattern[vessel])
    kind = blood.kinds[row] if blood.kinds else blood.kind
    place = _draw_rest(rng, blood.dark[row] > 0.5, length_um, kind)
    speed, start = blood.speed_um_s.copy(), blood.start_um.copy()
    speed[vessel] = moving
    start[vessel] = place + moved - moved[at_rest] + standing * _draw_jitter(rng, (flow.size,))
    return replace(blood, motion=motion, speed_um_s=speed, start_um=start)


def stand(blood: Blood, vessel: int, standing: NDArray[np.bool_], rng: Rng) -> Blood:
    """Let the cells of a vessel stand still in some frames, bool (frames,), and flow in others.

    They come to rest wherever they are, and jitter by 0.2 um.
    """
    speed, start = blood.speed_um_s.copy(), blood.start_um.copy()
    speed[vessel, standing] = 0
    moved = _add_up(speed[vessel], blood.frame_s)
    start[vessel] = start[vessel, 0] + moved + standing * _draw_jitter(rng, moved.shape)
    return replace(blood, speed_um_s=speed, start_um=start)


def keep_moving(blood: Blood) -> Blood:
    """Return blood whose first vessel does not pause; without a pause, the same."""
    if blood.motion != "pause":
        return blood
    speed, start = blood.speed_um_s.copy(), blood.start_um.copy()
    speed[0] = _fill_pause(speed[0])
    start[0] = start[0, 0] + _add_up(speed[0], blood.frame_s)
    return replace(blood, motion="flow", speed_um_s=speed, start_um=start)


def _fill_pause(speed_um_s: F64) -> F64:
    """Replace speeds of 0, (frames,), by the median of the others."""
    moving = speed_um_s != 0
    return np.where(moving, speed_um_s, np.median(speed_um_s[moving]))


def draw_patterns(rng: Rng, kinds: Sequence[str]) -> F32:
    """Draw the positions of cells along a vessel.

    Parameters
    ----------
    rng : Generator
        Random source.
    kinds : sequence of str
        ``cells``: single cells of `CELL_UM` with a random `HEMATOCRIT`; ``train``: 2-8 cells in a
        row, then 8-30 um of plasma; ``plug``: one body of 8-32 um, then 10-40 um of plasma;
        ``packed``: about 40-150 um of cells in a row, then 3-12 um of plasma; ``clear``: one cell
        of 3-10 um, then 25-120 um of plasma.

    Returns
    -------
    ndarray
        float32 (kinds, `PATTERN_LENGTH`): periodic patterns sampled every `PATTERN_STEP_UM`; 0 is
        plasma, 1 a cell.
    """
    rows = [KINDS[kind] for kind in kinds]
    # Cells in a row are 6.5 um apart on average, so 200 always fill a pattern of 1024 um.
    size = (len(rows), 200)
    body = rng.uniform(*_columns([row.body_um for row in rows]), size)  # (kinds, cells), um
    end = np.cumsum(_draw_gaps(rng, kinds, size) + body, axis=1)  # (kinds, cells), um
    # Drop cells that would cross the end of the pattern.
    kept = end < (PATTERN_LENGTH - 2) * PATTERN_STEP_UM
    offset = np.arange(len(rows))[:, None] * PATTERN_LENGTH
    depth = rng.uniform(0.8, 1, size)[kept]
    # Difference array over all rows: each cell adds its darkness at its start and subtracts it at
    # its end.
    edges = np.zeros(len(rows) * PATTERN_LENGTH)
    for place, step in ((end - body, depth), (end, -depth)):
        index = (np.rint(place / PATTERN_STEP_UM).astype(np.int64) + offset)[kept]
        edges += np.bincount(index, step, minlength=edges.size)
    dark = np.cumsum(edges).reshape(len(rows), PATTERN_LENGTH).astype(np.float32)
    rounded = gaussian_filter1d(dark, 0.5 / PATTERN_STEP_UM, axis=1, mode="wrap", truncate=3)
    return np.asarray(np.clip(rounded, 0, 1), dtype=np.float32)


def _draw_gaps(rng: Rng, kinds: Sequence[str], size: tuple[int, int]) -> F64:
    """Draw the gap before each cell, (kinds, cells) um: plasma between runs, almost none within."""
    rows = [KINDS[kind] for kind in kinds]
    plasma = rng.uniform(*_columns([row.plasma_um for row in rows]), size)
    # Gamma distribution of shape 1.5, shifted by 0.8 um; its mean yields the hematocrit.
    mean = sum(CELL_UM) / 2 * (1 / rng.uniform(*HEMATOCRIT, (size[0], 1)) - 1)
    scattered = 0.8 + rng.gamma(1.5, (mean - 0.8) / 1.5, size)
    single = np.array([kind == "cells" for kind in kinds])[:, None]
    least, most = _columns([row.run for row in rows])
    start = np.cumsum(rng.integers(least, most, size, endpoint=True), axis=1)
    opens = np.zeros(size, bool)  # (kinds, cells): the first cell of a run
    row, run = np.nonzero(start < size[1])
    opens[row, start[row, run]] = True
    opens[:, 0] = True
    return np.where(opens, np.where(single, scattered, plasma), rng.uniform(0.2, 0.8, size))


def _columns(ranges: Sequence[tuple[float, float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lower and upper ends of n ranges, each (n, 1)."""
    low, high = np.array(ranges).T[:, :, None]
    return low, high


def _draw_contrast(rng: Rng, kinds: Sequence[str], radius_um: F64) -> F32:
    """Draw contrasts (vessels,); `kinds` are the kinds of their patterns."""
    # Below 1, because the plasma sleeve around a cell still emits light.
    low, high = _columns([KINDS[kind].contrast for kind in kinds])
    contrast = rng.uniform(low, high, (len(kinds), 1))[:, 0]
    # In a wider vessel plasma passes beside the cells. A large one carries many files of cells,
    # which the PSF averages (chosen).
    filled = np.where(radius_um > LARGE_RADIUS_UM, 0.35, np.minimum(1, (3.8 / radius_um) ** 3))
    return np.asarray(contrast * filled, np.float32)


def _draw_speeds(
    rng: Rng, large: NDArray[np.bool_], frames: int, stalled: float = STALLED_NEIGHBOURS
) -> F64:
    """Draw signed speeds in um/s (vessels, frames); the first vessel neither stalls nor reverses.

    `large` (vessels,) marks the vessels that are not capillaries.
    """
    count = large.size
    among = math.sqrt(SPREAD**2 - SPREAD_WITHIN**2)
    log = among * rng.standard_normal() + SPREAD_WITHIN * rng.standard_normal(count)
    mean = np.clip(MEDIAN_UM_S * np.exp(log), *SPEED_UM_S)
    low, high = np.log(LARGE_UM_S)
    mean = np.where(large, np.exp(rng.uniform(low, high, count)), mean)
    mean *= rng.choice([-1, 1], count)
    speed = mean[:, None] * np.clip(1 + 0.12 * rng.standard_normal((count, frames)), 0.5, 1.5)
    fate = rng.random(count)
    fate[0] = 0.5
    speed[(fate < stalled) & ~large] = 0
    for vessel in np.flatnonzero(fate > 1 - REVERSING_NEIGHBOURS):
        speed[vessel] *= _draw_swing(rng, frames, (0, frames - 1))
    return speed


def _draw_swing(rng: Rng, frames: int, within: tuple[int, int]) -> F64:
    """Draw factors -1..1 (frames,) that change sign 1-4 times, at least once `within` a range."""
    first, last = within
    # Halfway between two frames, so that no factor is 0.
    places = [rng.integers(first, max(last, first + 1)), *rng.integers(0, frames - 1, 3)]
    crossing = np.unique(np.minimum(places[: rng.integers(1, 5)], frames - 2)) + 0.5
    half_turns = np.arange(1, crossing.size + 1)
    turn = np.interp(
        np.arange(frames), [0, *crossing, frames - 1], [0.5, *half_turns, half_turns[-1] + 0.5]
    )
    return np.asarray(np.sin(math.pi * turn))


def _draw_flow(
    rng: Rng, motion: str, speed: F64, frame_s: float, focus: tuple[int, int]
) -> tuple[str, F64]:
    """Turn a constant flow in um/s (frames,) into one of the motions in `FLOWING`."""
    sign = np.sign(speed[0])
    if motion == "crawl":
        varied = speed / np.abs(speed).mean()
        speed = sign * np.clip(np.abs(varied) * rng.uniform(3, 6), 3, 6) / frame_s
    if motion == "reverse":
        speed = speed * _draw_swing(rng, speed.size, focus)
    least = MOVING_UM / frame_s
    speed = np.where(speed < 0, np.minimum(speed, -least), np.maximum(speed, least))
    if motion == "pause":
        run = _draw_run(rng, focus, 0.1, FLOWING_SHARE)
        motion = "pause" if run else "flow"
        begin = rng.integers(focus[0], focus[1] + 2 - run)
        speed[begin : begin + run] = 0
    return motion, speed


def _draw_run(rng: Rng, focus: tuple[int, int], least: float, most: float) -> int:
    """Draw how many of the frames in focus are `least`..`most` of them; 0 if no number fits."""
    frames = focus[1] + 1 - focus[0]
    low, high = math.ceil(least * frames), math.floor(most * frames)
    return int(rng.integers(low, high, endpoint=True)) if low <= high else 0


def _draw_rest(rng: Rng, dark: NDArray[np.bool_], length_um: float, kind: str) -> float:
    """Draw the displacement in um at which cells come to rest.

    Both cells and plasma are then visible, because an evenly bright segment shows no stall. Only
    ``packed`` cells leave hardly any plasma, and ``clear`` blood hardly any cells.
    """
    window = min(math.ceil(length_um / PATTERN_STEP_UM), PATTERN_LENGTH)
    total = np.concatenate([[0], np.cumsum(np.concatenate([dark, dark[:window]]))])
    share = (total[window:] - total[:-window])[:PATTERN_LENGTH] / window
    low, high = {"packed": (0.9, 1.0), "clear": (0.03, 0.85)}.get(kind, (0.25, 0.85))
    beside = np.maximum(low - share, share - high)
    first = rng.choice(np.flatnonzero(beside <= max(beside.min(), 0)))
    return float(-first * PATTERN_STEP_UM % (PATTERN_LENGTH * PATTERN_STEP_UM))


def _draw_jitter(rng: Rng, shape: tuple[int, ...]) -> F64:
    """Draw a jitter of 0.2 um, bounded so that a creep still moves less than `STANDING_UM`."""
    return np.clip(rng.normal(0, 0.2, shape), -0.24, 0.24)


def _draw_sign(rng: Rng) -> int:
    return 1 if rng.random() < 0.5 else -1


def _draw_key(rng: Rng, chances: dict[str, float]) -> str:
    return str(rng.choice(list(chances), p=list(chances.values())))


def _add_up(speed: F64, frame_s: float) -> F64:
    """Integrate speeds in um/s (..., frames) to displacements at the start of each frame."""
    moved = np.cumsum(speed, axis=-1) * frame_s
    return np.asarray(moved - speed * frame_s)
