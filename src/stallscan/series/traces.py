"""What each vessel of a time series shows along its line, frame by frame.

Frames are read one at a time, and all lines are sampled at once. Values are those of the file, not
grey levels: bright vessels of a single plane would be white.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings.raw import Stack
from stallscan.recordings.recording import Box
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


class SquareStack:
    """A time series in square pixels of the larger side; square ones are left as they are.

    Attributes
    ----------
    shape : tuple of int
        (T, H, W).
    side_um : float
        Side of a pixel.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        sides_um = np.array(stack.voxel_um[1:])
        self.side_um = float(sides_um.max())
        size_px = np.array(stack.shape[1:])
        size = np.maximum(np.rint(size_px * sides_um / self.side_um), 1).astype(int)
        self.shape = (len(stack), int(size[0]), int(size[1]))
        self._scale = size / size_px

    def __len__(self) -> int:
        return self.shape[0]

    def values(self, index: int) -> F32 | None:
        """Return a frame, float32 (H, W); None if it is damaged."""
        frame = self._stack.values(index)
        return None if frame is None else self.resize(frame)

    def resize(self, frame: F32) -> F32:
        """Return a frame of the file, float32, in square pixels, (H, W)."""
        if frame.shape == self.shape[1:]:
            return frame
        # Area averaging uses all photons.
        resized = cv2.resize(frame, self.shape[:0:-1], interpolation=cv2.INTER_AREA)
        return np.asarray(resized, np.float32)

    def resize_region(self, region: Region) -> Region:
        """Return a region of the file in square pixels."""
        if self._stack.shape == self.shape:
            return region
        whole = np.zeros(self._stack.shape[1:], np.float32)
        whole[region.box.slices] = region.mask
        inside = self.resize(whole) > 0  # even a narrow region is not lost
        rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = Box(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
        # Whole numbers are the centres of pixels.
        line = None if region.line is None else (region.line + 0.5) * self._scale - 0.5
        return replace(region, box=box, mask=inside[box.slices], line=line)


class Registration:
    """Finds by how much frames are shifted against their mean, float32 (H, W).

    Frames are registered as a whole. A shift that is farther than `FARTHEST_UM`, or after which the
    frame is less like the mean than before, is a mistake, and counts as none.
    """

    def __init__(self, mean: F32, pixel_um: float) -> None:
        self._pixel_um = pixel_um
        self._window = cv2.createHanningWindow(mean.shape[::-1], cv2.CV_32F)
        self._reference = _extract_vessels(mean, pixel_um)

    def shift_of(self, frame: F32) -> F32:
        """Return the shift of a frame, float32 (H, W), in rows and columns: float32 (2,)."""
        vessels = _extract_vessels(frame, self._pixel_um)
        (across, down), _ = cv2.phaseCorrelate(self._reference, vessels, self._window)
        none = np.zeros(2, np.float32)
        if max(abs(across), abs(down)) * self._pixel_um > FARTHEST_UM:
            return none
        back = np.array([[1, 0, -across], [0, 1, -down]])
        moved = cv2.warpAffine(vessels, back, vessels.shape[::-1])
        # In a noisy frame, the best match of the phases may be anywhere.
        is_closer = (moved * self._reference).sum() > (vessels * self._reference).sum()
        return np.array([down, across], np.float32) if is_closer else none


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
    stack: SquareStack,
    mean: F32,
    lines: Sequence[tuple[F32, float]],
    noise_frames: NDArray[np.intp],
    progress: Progress,
) -> tuple[list[Trace], list[F32]]:
    """Read vessels along their lines, and the tissue across the whole field in some frames.

    All values are in memory: 80 MB for 500 vessels of 40 um and 1,000 frames.

    Parameters
    ----------
    mean : ndarray
        float32 (H, W), from `read_mean` in square pixels, on which frames are registered.
    lines : list of tuple
        Lines, each float32 (n, 2), and the values of the tissue beside them, from `find_line`.
    noise_frames : ndarray
        int (k,): frames in which `NOISE_LINES` are read, too.

    Returns
    -------
    traces : list of Trace
    noise_lines : list of ndarray
        Each float32 (k, n); NaN in damaged frames.
    """
    if not lines:
        return [], []
    registration = Registration(mean, stack.side_um)
    # Pixels on either side of a line that are averaged.
    half = max(round(HALF_WIDTH_UM / stack.side_um), 1)
    vessels = _Sampler([line for line, _ in lines], half, len(stack))
    field = _Sampler(_lay_noise_lines(stack), half, len(noise_frames))
    for index in range(len(stack)):
        frame = stack.values(index)
        if frame is not None:
            shift = registration.shift_of(frame)
            vessels.read(index, frame, shift)
            for row in np.flatnonzero(noise_frames == index):
                field.read(int(row), frame, shift)
        progress(index + 1, len(stack))
    tissue = [value for _, value in lines]
    return [Trace(*each) for each in zip(vessels.lines, tissue, strict=True)], field.lines


def find_bad_frames(traces: Sequence[Trace]) -> NDArray[np.bool_]:
    """Return the frames that are damaged, or in which many vessels darken at once, bool (T,).

    The latter are smeared by movement, or could not be registered. With fewer than `FEWEST_TRACES`
    vessels none of them is found.
    """
    if not traces:
        return np.zeros(0, bool)
    levels = np.array([trace.values.mean(axis=1) - trace.tissue for trace in traces])  # (R, T)
    damaged = np.asarray(np.isnan(levels).all(axis=0))
    if len(traces) < FEWEST_TRACES:
        return damaged
    typical = np.nanmedian(levels, axis=1)
    share = (levels < DARKENED * typical[:, None]).mean(axis=0)  # (T,)
    return np.asarray(damaged | (share > np.median(share) + MANY))


def _lay_noise_lines(stack: SquareStack) -> list[F32]:
    """Return lines laid at random across the field, the same for every series of this size."""
    rng = np.random.default_rng(0)
    _, height, width = stack.shape
    count = min(round(NOISE_LINE_UM / stack.side_um), min(height, width) - 8)
    along = np.arange(count) - count / 2
    room = count / 2 + 3
    lines = []
    for _ in range(NOISE_LINES):
        angle = rng.uniform(0, np.pi)
        middle = rng.uniform([room, room], [height - room, width - room])
        direction = np.array([np.sin(angle), np.cos(angle)])
        lines.append(np.asarray(middle + along[:, None] * direction, np.float32))
    return lines


class _Sampler:
    """Samples frames along lines, each float32 (n, 2), averaged across `half` pixels."""

    def __init__(self, lines: Sequence[F32], half: int, frames: int) -> None:
        grid = np.concatenate([spread_across(line, half) for line in lines])  # (N, k, 2)
        starts = range(0, len(grid), POINTS_AT_ONCE)
        self._parts = [grid[start : start + POINTS_AT_ONCE] for start in starts]
        # Values along each line, float32 (frames, n); NaN in frames not read.
        self.lines = [np.full((frames, len(line)), np.nan, np.float32) for line in lines]

    def read(self, row: int, frame: F32, shift: F32) -> None:
        """Sample a frame, float32 (H, W), that is shifted by some rows and columns."""
        sampled = [sample(frame[None], part + shift)[0] for part in self._parts]
        values, start = np.concatenate(sampled), 0
        for line in self.lines:
            line[row] = values[start : start + line.shape[1]]
            start += line.shape[1]
