"""Render simulated two-photon recordings of brain capillaries, independently of stallscan.simulate.

A yardstick: a net trained on one simulator is measured on another that shares no code with it.
Vessels are curved lines with a depth at each point. Blood is a tape of cells that moves along the
line and is sampled row by row. Everything is simulated; no real pixels are used. 1 px and 1 frame
are 1 um. All but the motion of the outlined blood has the same distribution for both labels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Line = Floats  # centre line of a vessel, (N, 4): depth, row, column, radius
Volume = NDArray[np.float32]  # (T, H, W), plasma in focus is 1

SEED = 7301
ORANGE = (255.0, 102.0, 0.0)  # RGB of the drawn outline
LINE_PX = 2.5  # width of the drawn outline
AROUND_PX = (8.0, 16.0)  # from the centre line to the outline
STEP_UM = 0.25  # spacing of centre-line points and tape samples; well below the blur
TAPE_SAMPLES = 4096  # 1,024 um of blood, then it repeats; far more than any outlined segment
CELL_UM = (4.0, 8.0)  # length of a red cell in a capillary
BLOOD = (0.45, 0.2, 0.2, 0.15)  # shares of ordinary, sparse, plugged and packed blood
RADIUS_UM = (2.0, 4.0)  # capillaries are 4-8 px wide
SPEED_UM_S = (150.0, 8600.0)  # range of red-cell speeds in mouse capillaries
MEDIAN_SPEED_UM_S = 1000.0
SLOW_UM_FRAME = (3.0, 6.0)  # slow flow, resolved from frame to frame
CREEP_UM_FRAME = (0.1, 0.5)  # blood in a stall may move this far
SLOW, PAUSING, CREEPING, EDGE = 0.18, 0.12, 0.2, 0.18  # shares of flow and of stalls
CHANGED_SHARE = 0.25  # of the frames in focus, at most, in a pause or at the edge of a stall
DENSITY = 1e-3  # um of vessel per um^3 of mouse cortex
STALLED_NEIGHBOURS = 0.12  # share of other vessels


@dataclass(frozen=True)
class Scan:
    """How a recording is scanned."""

    shape: tuple[int, int, int]  # frames, rows, columns
    clock_s: Floats  # (passes, rows): time of each row within a frame
    frame_s: float
    focus_um: float  # half-height of the focus
    steepness: float  # exponent of the tube's cross-section
    contrast: float  # darkness of cells, 0..1


def _wander(rng: Generator, n: int, scale: float) -> Floats:
    """Return smooth noise (n,) of about unit deviation, correlated over `scale` samples."""
    noise = gaussian_filter1d(rng.normal(size=n), scale, mode="wrap")
    return np.asarray(noise * np.sqrt(2 * np.sqrt(np.pi) * min(scale, n / 3)))


def _line(rng: Generator, length_um: float, heading: float, radius: float) -> Line:
    """Draw a line from the origin that wanders in heading, depth and radius."""
    n = int(length_um / STEP_UM)
    bend = _wander(rng, n, rng.uniform(6, 20) / STEP_UM) * rng.uniform(0.005, 0.035)
    angle = heading + np.cumsum(bend) * STEP_UM
    oblique = rng.uniform(0.15, 0.8) if rng.random() < 0.4 else rng.uniform(0, 0.1)
    climb = rng.uniform(0, 1.5) * _wander(rng, n, 15 / STEP_UM)
    climb += np.arange(n) * STEP_UM * oblique * rng.choice([-1, 1])
    radii = radius * (1 + 0.12 * _wander(rng, n, 8 / STEP_UM).clip(-2, 2))
    row, column = np.cumsum([np.sin(angle), np.cos(angle)], 1) * STEP_UM
    return np.column_stack([climb - climb[0], row, column, radii])


def _tape(rng: Generator, segment_um: float) -> Floats:
    """Draw blood: the relative half-width of the cell at each sample, 0 in plasma.

    It starts where both cells and plasma lie in the segment.
    """
    n = int(TAPE_SAMPLES * STEP_UM / CELL_UM[0])
    cell, sliver = rng.uniform(*CELL_UM, n), rng.uniform(0.4, 1.5, n)
    spaces = (
        sliver + rng.exponential(cell.mean() * (1 / rng.uniform(0.2, 0.45) - 1), n),
        rng.uniform(0.4, 1.2, n) * np.clip(segment_um, 18, 60),  # one or two cells at a time
        np.where(rng.random(n) < 0.35, rng.uniform(6, 25, n), sliver),
        sliver + rng.exponential(rng.uniform(0.8, 2.0), n),
    )
    plasma = spaces[rng.choice(4, p=BLOOD)]
    starts, at = np.cumsum(cell + plasma) - cell - plasma, np.arange(TAPE_SAMPLES) * STEP_UM
    index = np.searchsorted(starts, at, side="right") - 1
    along = (2 * (at - starts[index]) / cell[index] - 1).clip(-1, 1)
    tape = gaussian_filter1d(np.sqrt(1 - along**4), 0.4 / STEP_UM, mode="wrap")
    # Branches hide the ends of the segment: look at the middle 70 %.
    total = np.cumsum(np.concatenate([tape, tape]) > 0.5)
    skip, window = (int(part * segment_um / STEP_UM) for part in (0.15, 0.7))
    share = (total[window:] - total[:-window])[:TAPE_SAMPLES] / window
    good = np.flatnonzero((share > 0.2) & (share < 0.85))
    start = rng.choice(good) if len(good) else np.abs(share - 0.5).argmin()
    return np.roll(tape, skip - int(start))


def _motion(rng: Generator, scan: Scan, stalled: bool, in_focus: NDArray[np.intp]) -> Floats:
    """Draw the displacement of the blood in um: (T, passes, rows)."""
    frames = scan.shape[0]
    speed = np.clip(MEDIAN_SPEED_UM_S * np.exp(rng.normal(0, 0.85)), *SPEED_UM_S)
    slow = rng.uniform(*SLOW_UM_FRAME) / scan.frame_s
    moves = np.full(frames, not stalled)
    changed = int(rng.integers(1, max(int(CHANGED_SHARE * len(in_focus)), 1) + 1))
    if stalled and rng.random() < EDGE:
        late = slice(in_focus[-changed], None)
        moves[late if rng.random() < 0.5 else slice(in_focus[changed])] = True
        speed = rng.choice([slow, speed])
    elif not stalled and rng.random() < PAUSING:
        moves[in_focus[rng.integers(len(in_focus) - changed + 1) :][:changed]] = False
    elif rng.random() < SLOW:
        speed = slow
    creep = rng.uniform(*CREEP_UM_FRAME) / scan.frame_s if rng.random() < CREEPING else 0.0
    pulse = 1 + 0.15 * _wander(rng, frames, 2).clip(-1.5, 1.5)
    speeds = np.where(moves, speed * pulse, creep) * rng.choice([-1, 1])
    begin = (np.cumsum(speeds) - speeds) * scan.frame_s
    begin += rng.normal(0, rng.uniform(0.03, 0.3), frames) - begin[in_focus[len(in_focus) // 2]]
    return np.asarray(begin[:, None, None] + speeds[:, None, None] * scan.clock_s)


def _add_vessel(volume: Volume, scan: Scan, line: Line, tape: Floats, moved: Floats) -> None:
    """Add a vessel to the volume where it is in focus."""
    radius = float(line[:, 3].mean())
    half = scan.focus_um + max(radius - RADIUS_UM[1], 0)
    near, path = np.zeros(volume.shape[1:], np.uint8), np.rint(line[::2, 2:0:-1]).astype(np.int32)
    pixels = np.argwhere(cv2.polylines(near, [path], False, 1, int(4 * radius) + 3))  # (P, 2)
    aside, nearest = cKDTree(line[:, 1:3]).query(pixels)
    window = np.arange(-int(2 * half), int(2 * half) + 1)
    time = np.rint(line[nearest, :1]).astype(int) + window  # (P, window)
    seen = np.nonzero((time >= 0) & (time < len(volume)))
    frame, (row, column), at = time[seen], pixels[seen[0]].T, nearest[seen[0]]  # (N,) each
    depth, width, away = line[at, 0], line[at, 3], aside[seen[0]]
    tube = np.hypot(away / width, (frame - depth) / half)
    light = np.exp(-np.log(2) * tube**scan.steepness)
    sample = np.floor(at[:, None] - moved[frame, :, row] / STEP_UM).astype(int) % TAPE_SAMPLES
    dark = (tape[sample] * 1.3 * width[:, None] - away[:, None] + 0.5).clip(0, 1).mean(1)
    # In a wide vessel cells overlap and darken it less.
    light *= 1 - scan.contrast * min(1.0, (RADIUS_UM[1] / radius) ** 2) * dark
    volume[frame, row, column] = 1 - (1 - volume[frame, row, column]) * (1 - light)


def _other_lines(rng: Generator, scan: Scan, target: Line) -> list[Line]:
    """Draw branches at both ends of the segment, and vessels that do not touch it."""
    lines = []
    heading = np.arctan2(*(target[-1] - target[0])[1:3])
    for end, away in ((0, heading + np.pi), (-1, heading)):
        for side in rng.permutation([-1, 1])[: 1 + (rng.random() < 0.7)]:
            turned = away + side * rng.uniform(0.3, 1.2)
            line = _line(rng, rng.uniform(40, 150), turned, rng.uniform(*RADIUS_UM))
            line[:, :3] += target[end, :3]
            lines.append(line)
    tree = cKDTree(target[:, :3])
    wanted = DENSITY * np.prod(scan.shape) / 150 * rng.uniform(0.3, 1.3)
    for _ in range(min(int(rng.poisson(wanted)), 16)):
        radius = rng.uniform(*RADIUS_UM) if rng.random() < 0.93 else rng.uniform(6, 14)
        line = _line(rng, rng.uniform(60, 250), rng.uniform(0, 2 * np.pi), radius)
        line[:, :3] += rng.uniform(0, scan.shape) - line[:, :3].mean(0)
        if tree.query(line[:, :3])[0].min() > radius + scan.focus_um + 4:
            lines.append(line)
    return lines


def _scenery(rng: Generator, volume: Volume) -> Volume:
    """Return background texture, haze and bright puncta, relative to plasma: (T, H, W)."""
    haze = gaussian_filter(volume[:, ::4, ::4], (4, 2, 2)) * rng.uniform(0, 0.35)
    grain = rng.standard_normal(volume[:, ::2, ::2].shape, np.float32)
    blur, level = np.exp(rng.uniform(*np.log([[0.5, 0.03], [3, 0.2]])))  # px, of plasma
    grain = gaussian_filter(grain, (1.5, blur, blur))
    grain = level * (1 + rng.uniform(0.1, 0.5) * grain / grain.std()).clip(0)
    count = int(rng.poisson(rng.choice([2, 15])))
    spots = np.zeros_like(grain)
    spots[tuple(rng.integers(0, grain.shape, (count, 3)).T)] = rng.uniform(5, 20, count)
    grain += gaussian_filter(spots, (1.5, 0.5, 0.5))
    size = volume.shape[:0:-1]
    planes = zip(haze, grain, strict=True)
    return np.asarray([cv2.resize(a, size) + cv2.resize(b, size) for a, b in planes], np.float32)


def _shake(rng: Generator, volume: Volume) -> None:
    """Shift the frames at random and, in some, rows against each other."""
    frames, rows, columns = volume.shape
    shift = rng.normal(0, rng.uniform(0.1, 0.7), (frames, 2))
    sway = np.abs(rng.normal(0, rng.uniform(0, 0.5), frames))
    sway[rng.random(frames) < rng.choice([0, 0.04])] += rng.uniform(2, 6)
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    for plane, (down, right), most in zip(volume, shift, sway, strict=True):
        wave = most * np.sin(row / rng.uniform(8, 40) + rng.uniform(0, 6)) + right
        to = (column + wave).astype(np.float32), (row + down).astype(np.float32)
        plane[:] = cv2.remap(plane, *to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _detect(rng: Generator, volume: Volume) -> Volume:
    """Return grey levels 0..255: drifting light, photon noise, detector, contrast stretch."""
    frames, rows, columns = volume.shape
    drift = rng.normal(0, 0.15) * _wander(rng, frames, 8)
    power = np.exp(drift - np.arange(frames) * rng.uniform(0, 0.008))  # weaker with depth
    power[rng.integers(frames) :] *= rng.uniform(1.3, 2.5) if rng.random() < 0.25 else 1
    photons = np.exp(rng.uniform(*np.log([5, 70])))  # per pixel of plasma in focus
    counts = rng.poisson(volume * (photons * power)[:, None, None]).astype(np.float32)
    counts += rng.normal(0, rng.uniform(0, 0.2) * np.sqrt(photons), (frames, rows, 1))
    counts += rng.uniform(0.1, 0.8) * rng.standard_normal(volume.shape, np.float32)
    counts = (counts + rng.uniform(0, 2)).clip(0)  # detector offset
    along, both = rng.choice([0.0, 0.5, 0.9], 2)  # slow detector; registration or averaging
    sigma = np.hypot(along, both) + 1e-3, both + 1e-3
    counts = np.stack([cv2.GaussianBlur(plane, (5, 5), *sigma) for plane in counts])
    limits = rng.uniform(1, 40), 100 - np.exp(rng.uniform(*np.log([0.1, 2])))
    dark, bright = np.percentile(counts[::2, ::2, ::2], limits)
    grey = ((counts - dark) / max(bright - dark, 0.5)).clip(0, 1) ** rng.uniform(0.7, 1.2)
    if rng.random() < 0.25:  # registration leaves a black strip or wedge at one edge
        row, column = np.mgrid[:rows, :columns]
        angle = rng.integers(4) * np.pi / 2 + rng.choice([0, rng.uniform(-0.6, 0.6)])
        across = row * np.sin(angle) + column * np.cos(angle)
        edge = across.max() - rng.uniform(2, 18) + rng.normal(0, 0.6, frames)
        grey[across > edge[:, None, None]] = 0
    return np.asarray(255 * grey, np.float32)


def _outlined(rng: Generator, grey: Volume, target: Line) -> NDArray[np.uint8]:
    """Draw a closed outline around the segment; return the frames (T, H, W, 3), RGB."""
    away = np.ones(grey.shape[1:], np.uint8)
    cv2.polylines(away, [np.rint(target[:, 2:0:-1]).astype(np.int32)], False, 0)
    rough = gaussian_filter(rng.normal(size=away.shape), 8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, 5) + rng.uniform(0, 2) * rough / rough.std()
    inside = (gaussian_filter(distance, 2) < rng.uniform(*AROUND_PX)).astype(np.uint8)
    # Its nearest pixels on either side have distance 1.
    edge = sum(cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (inside, 1 - inside))
    paint = (LINE_PX / 2 + 1 - edge).clip(0, 1)[..., None]
    drawn = grey[..., None] * (1 - paint) + paint * np.asarray(ORANGE, np.float32)
    return np.asarray(np.rint(drawn), np.uint8)


def _placed(rng: Generator) -> tuple[Scan, Line]:
    """Draw the scan, and the segment to outline with its place in depth and in the frames."""
    length = float(np.clip(np.exp(rng.normal(np.log(34), 0.45)), 16, 95))
    line = _line(rng, length, rng.uniform(0, 2 * np.pi), rng.uniform(*RADIUS_UM))
    focus = rng.uniform(3, 7)  # in focus for 6-14 frames
    frames = int(np.clip(np.exp(rng.normal(np.log(52), 0.35)), 25, 110))
    line[:, 0] *= min(1, (frames - 2 * focus - 4) / np.ptp(line[:, 0]))
    border = np.array([focus + 1, AROUND_PX[1] + 6, AROUND_PX[1] + 6])
    box = np.ptp(line[:, :3], axis=0) + 2 * border
    rows, columns = (box[1:] + rng.uniform(20, 110, 2)).clip(100, 200).astype(int) // 2 * 2
    shape = frames, int(rows), int(columns)
    line[:, :3] += border - line[:, :3].min(0) + (shape - box) * rng.uniform(0.1, 0.9, 3)
    line_s, lines = rng.uniform(0.001, 0.002), int(rng.integers(400, 520))
    passes, start = int(rng.choice([1, 1, 2, 3])), rng.integers(lines - rows)
    clock_s = (np.arange(passes)[:, None] * lines + start + np.arange(rows)) * line_s
    looks = rng.uniform(2, 4), rng.uniform(0.8, 0.97)
    return Scan(shape, clock_s, passes * lines * line_s, focus, *looks), line


def film(row: int, seed: int = SEED, stalled_share: float = 0.4) -> tuple[NDArray[np.uint8], bool]:
    """Return simulated frames, uint8 (T, H, W, 3) RGB, and whether the outlined blood is stalled.

    The result depends on the arguments only.
    """
    rng = np.random.default_rng([seed, row])
    stalled = bool(rng.random() < stalled_share)
    scan, target = _placed(rng)
    apart = np.abs(np.arange(scan.shape[0])[:, None] - target[:, 0])  # (T, N)
    in_focus = np.flatnonzero((apart < scan.focus_um).any(1))
    volume = np.zeros(scan.shape, np.float32)
    for line in [target, *_other_lines(rng, scan, target)]:
        still = stalled if line is target else bool(rng.random() < STALLED_NEIGHBOURS)
        tape = _tape(rng, len(line) * STEP_UM)
        _add_vessel(volume, scan, line, tape, _motion(rng, scan, still, in_focus))
    volume += _scenery(rng, volume)
    _shake(rng, volume)
    return _outlined(rng, _detect(rng, volume), target), stalled
