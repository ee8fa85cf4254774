"""What each vessel of a time series shows along its line, frame by frame.

Frames are read one at a time, and all lines are sampled at once. Values are those of the file, not
grey levels: bright vessels of a single plane would be white.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings.raw import Stack
from stallscan.vessels.lines import resample
from stallscan.vessels.regions import Region
from stallscan.vessels.straighten import find_centre_line, sample, spread_across

F32 = NDArray[np.float32]

# Half the width across which a vessel is averaged. Capillaries are 4 to 8 um wide
# (docs/facts.md 5); near their edge, a movement of the tissue changes the brightness.
HALF_WIDTH_UM = 1.5
# Chosen: a shorter line shows a cell or two.
SHORTEST_UM = 10.0
# Left out at either end of a line, about the width of a capillary (docs/facts.md 5).
TRIMMED_UM = 4.0
# Standard deviation of the blur before a vessel is told from tissue in a mean image.
SMOOTH_UM = 1.0
# Standard deviation of the surroundings that are subtracted before frames are registered, and the
# farthest shift; chosen.
SURROUND_UM, FARTHEST_UM = 10.0, 20.0
# Lines laid across the field at random, and their length, to measure the noise.
NOISE_LINES, NOISE_LINE_UM = 300, 30.0
# OpenCV samples fewer points at once.
POINTS_AT_ONCE = 30_000
# Chosen: a frame is bad if this share of at least so many vessels, more than usual, is darker than
# this part of its median brightness. Independent stalls do not begin together.
MANY, FEWEST_TRACES, DARKENED = 0.2, 8, 0.6

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trace:
    """A vessel along its line.

    Attributes
    ----------
    values : ndarray
        float32 (T, n): values of the file, of points 1 px apart; NaN in damaged frames.
    tissue : float
        The value beside the vessel.
    """

    values: F32
    tissue: float


def read_mean(stack: Stack, progress: Progress) -> F32:
    """Return the mean of all frames, float32 (H, W)."""
    total = np.zeros(stack.shape[1:], np.float64)
    count = 0
    for index in range(len(stack)):
        frame = stack.values(index)
        if frame is not None:
            total += frame
            count += 1
        progress(index + 1, len(stack))
    if not count:
        raise UnreadableError(f"{stack.path}: no frame can be decoded. Copy or export it again")
    return np.asarray(total / count, np.float32)


def find_shifts(stack: Stack, mean: F32, progress: Progress) -> F32:
    """Return by how much each frame is shifted against the mean, rows and columns: float32 (T, 2).

    Frames are registered as a whole. A shift that is farther than `FARTHEST_UM`, or after which the
    frame is less like the mean than before, is a mistake, and counts as none.
    """
    pixel_um = max(stack.voxel_um[1:])
    window = cv2.createHanningWindow(mean.shape[::-1], cv2.CV_32F)
    reference = _extract_vessels(mean, pixel_um)
    shifts = np.zeros((len(stack), 2), np.float32)
    for index in range(len(stack)):
        frame = stack.values(index)
        if frame is not None:
            vessels = _extract_vessels(frame, pixel_um)
            (across, down), _ = cv2.phaseCorrelate(reference, vessels, window)
            if max(abs(across), abs(down)) * pixel_um <= FARTHEST_UM:
                back = np.array([[1, 0, -across], [0, 1, -down]])
                moved = cv2.warpAffine(vessels, back, mean.shape[::-1])
                # In a noisy frame, the best match of the phases may be anywhere.
                if (moved * reference).sum() > (vessels * reference).sum():
                    shifts[index] = down, across
        progress(index + 1, len(stack))
    return shifts


def _extract_vessels(frame: F32, pixel_um: float) -> F32:
    """Return what is finer than `SURROUND_UM` and coarser than the noise, float32 (H, W)."""
    fine, coarse = (
        cv2.GaussianBlur(frame, (0, 0), side / pixel_um) for side in (SMOOTH_UM, SURROUND_UM)
    )
    # Bright vessels are not to outweigh all others.
    band = fine - coarse
    return np.asarray(np.sign(band) * np.sqrt(np.abs(band)), np.float32)


def find_line(region: Region, mean: F32, pixel_um: float) -> tuple[F32 | None, float]:
    """Return the centre line of the vessel in a region, and the value of the tissue beside it.

    Parameters
    ----------
    mean : ndarray
        float32 (H, W), of all frames.
    pixel_um : float
        Side of a pixel.

    Returns
    -------
    line : ndarray or None
        float32 (n, 2): rows and columns, 1 px apart; None without a vessel of `SHORTEST_UM`.
    tissue : float
        The 10th percentile of the region.
    """
    inside = mean[region.box.slices]
    tissue = float(np.percentile(inside[region.mask], 10))
    if region.line is not None and len(region.line) > 1:
        line = np.asarray(resample(region.line[None])[0], np.float32)
    else:
        smooth = cv2.GaussianBlur(inside, (0, 0), SMOOTH_UM / pixel_um)
        # Otsu's threshold of the region, on 8 bits as OpenCV needs them.
        lowest = smooth.min()
        levels = ((smooth - lowest) * (255 / max(float(np.ptp(smooth)), 1e-9))).astype(np.uint8)
        cut, _ = cv2.threshold(levels[region.mask], 0, 255, cv2.THRESH_OTSU)
        found = find_centre_line((levels > cut) & region.mask)
        if found is None:
            return None, tissue
        line = found + np.array([region.box.row0, region.box.col0], np.float32)
    height, width = mean.shape
    seen = ((line >= 0) & (line <= np.array([height, width]) - 1)).all(axis=1)
    line = line[seen]
    # At its ends, a segment meets others, whose blood may move.
    trimmed = round(TRIMMED_UM / pixel_um)
    if (len(line) - 2 * trimmed) * pixel_um >= SHORTEST_UM:
        line = line[trimmed : len(line) - trimmed]
    return (line if len(line) * pixel_um >= SHORTEST_UM else None), tissue


def read_traces(
    stack: Stack,
    lines: Sequence[F32],
    tissue: Sequence[float],
    shifts: F32,
    progress: Progress,
) -> list[Trace]:
    """Return the vessels along their lines, each float32 (n, 2) from `find_line`.

    `shifts` is the result of `find_shifts`. All values are in memory: 80 MB for 500 vessels of 40
    um and 1,000 frames.
    """
    if not lines:
        return []
    values = _sample_all(stack, lines, range(len(stack)), shifts, progress)
    return [Trace(*each) for each in zip(values, tissue, strict=True)]


def find_bad_frames(traces: Sequence[Trace]) -> NDArray[np.bool_]:
    """Return the frames in which many vessels darken at once, bool (T,).

    They are smeared by movement, or could not be registered. With fewer than `FEWEST_TRACES`
    vessels none is found.
    """
    levels = np.array([trace.values.mean(axis=1) - trace.tissue for trace in traces])  # (R, T)
    if len(traces) < FEWEST_TRACES:
        return np.zeros(levels.shape[-1] if levels.size else 0, bool)
    typical = np.nanmedian(levels, axis=1)
    share = (levels < DARKENED * typical[:, None]).mean(axis=0)  # (T,)
    return np.asarray(share > np.median(share) + MANY)


def read_noise_lines(stack: Stack, frames: Sequence[int], shifts: F32) -> list[F32]:
    """Return lines across the whole field in some frames, each float32 (frames, n).

    They are laid at random, the same for every series of this size.
    """
    rng = np.random.default_rng(0)
    _, height, width = stack.shape
    pixel_um = max(stack.voxel_um[1:])
    count = min(round(NOISE_LINE_UM / pixel_um), min(height, width) - 8)
    along = np.arange(count) - count / 2
    room = count / 2 + 3
    lines = []
    for _ in range(NOISE_LINES):
        angle = rng.uniform(0, np.pi)
        middle = rng.uniform([room, room], [height - room, width - room])
        direction = np.array([np.sin(angle), np.cos(angle)])
        lines.append(np.asarray(middle + along[:, None] * direction, np.float32))
    return _sample_all(stack, lines, frames, shifts, lambda _done, _of: None)


def half_width_px(stack: Stack) -> int:
    """Return how many pixels on either side of a line are averaged."""
    return max(round(HALF_WIDTH_UM / max(stack.voxel_um[1:])), 1)


def _sample_all(
    stack: Stack, lines: Sequence[F32], frames: Sequence[int], shifts: F32, progress: Progress
) -> list[F32]:
    half = half_width_px(stack)
    grid = np.concatenate([spread_across(line, half) for line in lines])  # (N, k, 2)
    parts = [grid[start : start + POINTS_AT_ONCE] for start in range(0, len(grid), POINTS_AT_ONCE)]
    values = np.full((len(frames), len(grid)), np.nan, np.float32)
    for row, index in enumerate(frames):
        frame = stack.values(index)
        if frame is not None:
            moved = [part + shifts[index] for part in parts]
            values[row] = np.concatenate([sample(frame[None], part)[0] for part in moved])
        progress(row + 1, len(frames))
    ends = np.cumsum([len(line) for line in lines])
    return [np.ascontiguousarray(part) for part in np.split(values, ends[:-1], axis=1)]
