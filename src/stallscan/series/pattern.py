"""Stalls as patterns of blood cells that stay, in movies in which cells are visible.

Along a vessel, the picture of a frame is a fixed part (the vessel itself), the cells, and noise.
In flowing blood the cells are others in every frame. In a stall they stay, so that the frames
differ by noise alone, and their mean differs from the fixed part. Both are compared in one number,
the logarithm of the likelihood ratio of a stall from one frame to another against flow in all of
them. It adds up over frames and along the vessel, so noisy movies show long stalls only.
The stalls of a segment are the intervals with the largest sum, each of which must be worth
`PENALTY`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from stallscan.series.stallogram import FLOWING, STALLED, UNKNOWN, States

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Standard deviations along the vessel of the blurs between which patterns lie: cells are 4 to 8 um
# long (docs/facts.md 5), noise is finer, and the brightness of a vessel changes more slowly.
FINE_UM, COARSE_UM = 1.5, 15.0
# What the likelihood ratio of an interval must exceed. Chosen on simulated series, see
# benchmarks/series.md.
PENALTY = 14.0
# Chosen: frames that differ more than this from the fixed part, relative to the median of flowing
# frames, are smeared by movement.
SMEARED = 3.0
# Chosen: the noise is measured to about 20 %; less moving blood cannot be told from noise.
SEEN_FLOWING = 1.5
# The same where blood stands in most frames: the flow is then measured in few.
SEEN_SELDOM = 3.0
NOISE_MARGIN = 1.1
# Standing blood changes by more than the noise: tissue moves, and other vessels shine in. Its
# variance is that of the calmest part of the series, at most this share of the flow's; chosen.
CALMEST, MOST_OF_FLOW = 0.05, 0.4
# Least variance of standing cells relative to the squared brightness of the vessel, chosen on
# simulated series: slow frames blur moving cells, but not standing ones.
STANDING_VARIANCE = 0.01
# Share of the frames, those with the most change, that show flow before any stall is known.
FIRST_FLOWING = 0.3
# The fixed part of a vessel is the mean over at least so many frames.
FEWEST_FLOWING, FEWEST_SHARE = 10, 0.08
ITERATIONS = 4
# Longer stalls are found in pieces, which are joined. A typical stall is visible after far fewer
# frames where flow is visible at all.
PIECE_FRAMES = 256
# Pairs of frames that measure the noise, and groups of lines of similar brightness.
NOISE_PAIRS, NOISE_GROUPS = 30, 12
# Part of each group that shows no moving blood: the noise is this quantile of its changes.
STILL_QUANTILE = 0.25


@dataclass(frozen=True)
class NoiseLaw:
    """Variance of the noise of a pattern: ``offset + slope * value`` (Poisson noise is linear)."""

    offset: float
    slope: float

    def variance(self, value: float) -> float:
        """Return the variance at a value of the file."""
        return max(self.offset + self.slope * value, 1e-6 * value**2, 1e-12)


@dataclass(frozen=True)
class Found:
    """The states of a segment, and how well they can be told.

    Attributes
    ----------
    states : ndarray
        int8 (T,).
    shortest : float
        Frames that a stall must last to be found; infinite if none would be.
    reason : str
        Why the segment is unknown; empty if it is not.
    """

    states: States
    shortest: float
    reason: str = ""


def extract_pattern(values: F32, pixel_um: float) -> F32:
    """Return what lies between `FINE_UM` and `COARSE_UM` along a vessel, like `values`: (T, n)."""
    fine, coarse = (
        gaussian_filter1d(values, side / pixel_um, axis=1, mode="nearest")
        for side in (FINE_UM, COARSE_UM)
    )
    return np.asarray(fine - coarse, np.float32)


def choose_pairs(count: int) -> NDArray[np.intp]:
    """Return the frames that measure the noise of `count`: all first ones, then their next ones."""
    first = np.unique(np.linspace(0, count - 2, NOISE_PAIRS).astype(int))
    return np.concatenate([first, first + 1])


def measure_noise(lines: list[F32], pixel_um: float) -> NoiseLaw:
    """Measure the noise from lines anywhere in the field.

    Most of them lie in tissue, which does not change, so that consecutive frames differ by noise.

    Parameters
    ----------
    lines : list of ndarray
        Each float32 (2 k, n): first the k first frames of all pairs, then the second ones; NaN in
        damaged frames.
    """
    value, change = [], []
    for line in lines:
        first, second = np.split(extract_pattern(line, pixel_um), 2)
        good = np.isfinite(first - second).all(axis=1)  # pairs without a damaged frame
        if good.any():
            value.append(float(line[np.isfinite(line).all(axis=1)].mean()))
            change.append(float(((first - second)[good] ** 2).mean() / 2))
    values, changes = np.array(value), np.array(change)
    if not len(values):
        return NoiseLaw(math.inf, 0.0)  # nothing can be told
    groups = np.array_split(np.argsort(values), NOISE_GROUPS)
    means = np.array([values[group].mean() for group in groups if len(group)])
    still = np.array(
        [np.quantile(changes[group], STILL_QUANTILE) for group in groups if len(group)]
    )
    if len(means) < 2 or np.ptp(means) <= 0:
        return NoiseLaw(float(still.mean()), 0.0)
    slope, offset = np.polyfit(means, still, 1, w=1 / np.maximum(still, 1e-9))
    return NoiseLaw(float(offset), float(slope))


def find_states(
    values: F32, tissue: float, noise: NoiseLaw, pixel_um: float, least: int, longest: int
) -> Found:
    """Find the stalls of one segment.

    Parameters
    ----------
    values : ndarray
        float32 (T, n): the segment along its line, from `traces`; NaN in damaged frames.
    tissue : float
        The value beside it.
    noise : NoiseLaw
        From `measure_noise`.
    pixel_um : float
        Side of a pixel.
    least : int
        Frames of the shortest stall.
    longest : int
        If only longer stalls would be visible, in frames, the segment is unknown.
    """
    states = np.full(len(values), UNKNOWN, np.int8)
    good = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(good) < max(FEWEST_FLOWING, 2 * least) or not math.isfinite(noise.offset):
        return Found(states, math.inf, "too few frames, or too many that are damaged")
    seen = values[good]
    brightness = float(seen.mean()) - tissue
    if brightness <= 0:
        return Found(states, math.inf, "not brighter than the tissue beside it")
    pattern = extract_pattern(seen, pixel_um).astype(np.float64) / brightness
    variance = noise.variance(float(seen.mean())) / brightness**2 * NOISE_MARGIN
    standing, model = _iterate(pattern, variance, least)
    shortest = model.shortest(least)
    least_flow = SEEN_SELDOM if standing.mean() > 0.5 else SEEN_FLOWING
    if model.flow < least_flow * variance:
        reason = "no moving blood is seen: it stands still throughout, or shows no cells"
        return Found(states, shortest, reason)
    if shortest > longest:
        return Found(states, shortest, "too dark or short: only long stalls would be visible")
    states[good] = np.where(standing, STALLED, FLOWING)
    return Found(states, shortest)


@dataclass(frozen=True)
class _Model:
    """What flow and stalls look like in a segment; variances relative to its brightness."""

    fixed: F64  # (n,): the vessel without cells
    flow: float  # variance in flow: cells and noise
    noise: float  # variance of standing blood around its mean
    independent: float  # number of independent points along the vessel

    @classmethod
    def of(cls, flowing: F64, noise: float, calm: float) -> "_Model":
        """Return the model of frames (k, n) in which blood flows.

        `calm` is the variance of the calmest part of the series.
        """
        # Frames that are smeared by movement differ from all others.
        fixed = np.median(flowing, axis=0)
        squares = ((flowing - fixed) ** 2).mean(axis=1)
        kept = flowing[squares <= SMEARED * np.median(squares)]
        fixed = kept.mean(axis=0)
        away = kept - fixed
        covariance = away.T @ away / max(len(away) - 1, 1)
        total = float(np.trace(covariance))
        independent = total**2 / max(float((covariance**2).sum()), 1e-300)
        flow = total / len(fixed)
        still = max(noise, min(calm, MOST_OF_FLOW * flow))
        return cls(fixed, flow, still, max(independent, 1.0))

    @property
    def standing(self) -> float:
        """Variance of standing cells."""
        return max(self.flow - self.noise, STANDING_VARIANCE)

    def ratio(self, frames: F64, within: F64, mean: F64) -> F64:
        """Return the logarithm of the likelihood ratio of a stall to flow.

        Parameters
        ----------
        frames : ndarray
            float64 (k,): length of each interval, at least 2.
        within : ndarray
            float64 (k,): sum of the squares around the mean of the interval, per point.
        mean : ndarray
            float64 (k,): squared mean of the interval, per point, times its length.
        """
        flow, noise = max(self.flow, self.noise), self.noise
        mixed = frames * self.standing + noise
        ratio = frames * math.log(flow) + (within + mean) / flow
        ratio -= (frames - 1) * math.log(noise) + within / noise
        ratio -= np.log(mixed) + mean / mixed
        return np.asarray(self.independent / 2 * ratio)

    def shortest(self, least: int) -> float:
        """Return the number of frames from which on a typical stall exceeds `PENALTY`."""
        frames = np.arange(max(least, 2), _count_piece(least) + 1).astype(np.float64)
        expected = self.ratio(
            frames, (frames - 1) * self.noise, frames * self.standing + self.noise
        )
        enough = np.flatnonzero(expected > PENALTY)
        return float(frames[enough[0]]) if len(enough) else math.inf


def _count_piece(least: int) -> int:
    """Return the most frames of a piece of a stall."""
    # Any longer stall can be divided into pieces of at least `least` frames.
    return max(PIECE_FRAMES, 2 * least)


def _iterate(pattern: F64, noise: float, least: int) -> tuple[NDArray[np.bool_], _Model]:
    """Return in which frames blood stands, bool (T,), and the model of the others."""
    flowing = _guess_flowing(pattern, least)
    fewest = max(FEWEST_FLOWING, round(FEWEST_SHARE * len(pattern)))
    standing = np.zeros(len(pattern), bool)
    calm = _measure_calm(pattern, least)
    model = _Model.of(pattern[flowing], noise, calm)
    for _ in range(ITERATIONS):
        standing = _segment(pattern - model.fixed, model, least)
        if np.count_nonzero(~standing) < fewest or (flowing == ~standing).all():
            break
        flowing = ~standing
        model = _Model.of(pattern[flowing], noise, calm)
    return standing, model


def _measure_calm(pattern: F64, least: int) -> float:
    """Return the variance from frame to frame in the calmest part of a pattern, (T, n)."""
    change = (np.diff(pattern, axis=0) ** 2).mean(axis=1) / 2
    around = min(max(least, 5), len(change))
    smooth = np.convolve(change, np.ones(around) / around, mode="valid")
    return float(np.quantile(smooth, CALMEST))


def _guess_flowing(pattern: F64, least: int) -> NDArray[np.bool_]:
    """Return the frames in whose neighbourhood most changes, bool (T,)."""
    change = (np.diff(pattern, axis=0) ** 2).mean(axis=1)
    around = min(max(least, 3), len(change))
    smooth = np.convolve(change, np.ones(around) / around, mode="same")
    smooth = np.append(smooth, smooth[-1])
    return np.asarray(smooth >= np.quantile(smooth, 1 - FIRST_FLOWING))


def _segment(away: F64, model: _Model, least: int) -> NDArray[np.bool_]:
    """Return the frames of the stalls whose likelihood ratios sum up to most, bool (T,).

    `away` is float64 (T, n): patterns without the fixed part. This is dynamic programming over the
    last frame of the last stall.
    """
    count, points = away.shape
    total = np.concatenate([np.zeros((1, points)), np.cumsum(away, axis=0)])  # (T + 1, n)
    squares = np.concatenate([[0.0], np.cumsum((away**2).mean(axis=1))])
    best = np.zeros(count + 1)
    begin = np.full(count + 1, -1)
    fewest, most = max(least, 2), _count_piece(least)
    for stop in range(1, count + 1):
        best[stop] = best[stop - 1]
        starts = np.arange(max(stop - most, 0), stop - fewest + 1)
        if not len(starts):
            continue
        frames = (stop - starts).astype(np.float64)
        mean = ((total[stop] - total[starts]) ** 2).mean(axis=1) / frames
        within = np.maximum(squares[stop] - squares[starts] - mean, 0)
        worth = best[starts] + model.ratio(frames, within, mean) - PENALTY
        at = int(worth.argmax())
        if worth[at] > best[stop]:
            best[stop], begin[stop] = worth[at], starts[at]
    standing = np.zeros(count, bool)
    stop = count
    while stop > 0:
        if begin[stop] < 0:
            stop -= 1
            continue
        standing[begin[stop] : stop] = True
        stop = int(begin[stop])
    return standing
