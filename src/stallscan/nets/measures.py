"""The features of the baseline (`nets.features`): what stands still in a clip, and what moves.

Grey levels depend on laser, detector and display, and carry over badly from one microscope to
another. The features therefore compare frames with each other, after a band-pass at the scale of a
capillary, and only where the image is in focus: local correlation of frames one to four apart,
gaps that stay dark, change in time relative to structure and to noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Frames

F32 = NDArray[np.float32]
Stack = F32  # (h, w, T): OpenCV filters all frames at once if time is the last axis
Values = dict[str, float]

# Lengths are in pixels of a clip of 64 px, where a capillary is 4 to 8 px wide (docs/facts.md 5).
FINE_PX = 0.8  # band-pass: blur against noise
COARSE_PX = 4.0  # band-pass: what is wider is background
GAP_PX = 7  # a cell's length: gaps up to this length are closed to find the vessel
WINDOWS_PX = (5, 9)  # windows of the local correlation
LAGS = (1, 2, 3, 4)  # frames apart
OWN_HALVES = (1, 2, 3)  # frames before and after the one in which a place is brightest
FEWEST_FRAMES = 5  # in focus: fewer say nothing about what stays
LIT = 8  # a frame whose brightest pixel is below this is black
SAME = 0.98  # a frame that repeats this share of the pixels before it is a copy
FEWEST_PIXELS = 30  # of the outlined region, and of the vessel in it
# OpenCV 5 filters at most 128 channels at once.
CHANNELS = 64
# Grey levels added to deviations before they are divided: half a level is rounding.
ROUNDING = 0.3
TINY = 1e-6  # keeps denominators above 0


def _describe() -> dict[str, str]:
    """Return the description of each feature, in order."""
    words = {
        "frames_in_focus": "the number of frames in focus",
        "focus": "how much sharper the frames in focus are than the others",
        "noise": "the noise relative to the structure in focus",
        "haze": "the even light relative to the structure in focus",
    }
    for size in WINDOWS_PX:
        for lag in LAGS if size == WINDOWS_PX[0] else LAGS[::2]:
            apart = f"of frames {lag} apart in windows of {size} px"
            words |= {
                f"same_{size}_{lag}": f"the local correlation {apart}",
                f"peak_{size}_{lag}": f"the same where there is most structure, {apart}",
                f"weak_{size}_{lag}": f"its lowest tenth where there is most structure, {apart}",
            }
            if lag > 1:
                words[f"kept_{size}_{lag}"] = f"the structure that is kept, {apart}"
    words |= {
        "same_least": "the local correlation of the neighbouring frames that differ most",
        "same_p10": "the local correlation in the tenth of the places that change most",
        "same_p50": "the local correlation in the middle of the places",
        "same_p90": "the local correlation in the tenth of the places that change least",
        "dark_in_all": "the share of the vessel that is dark in every frame in focus",
        "dim_in_all": "the share of the vessel that is never bright in focus",
        "dark_once": "the share of the vessel that is dark in some frame in focus",
        "bright_in_all": "the share of the vessel that is bright in every frame in focus",
        "dim_stays": "the share never bright relative to the share dark once (logarithm)",
    }
    for half in OWN_HALVES:
        around = f"in the {2 * half + 1} frames in which each place is brightest"
        words |= {
            f"own_dark_{half}": f"the share of the vessel that stays dark {around}",
            f"own_bright_{half}": f"the share of the vessel that stays bright {around}",
            f"own_stays_{half}": f"the share that stays dark, of what is dark {around}",
            f"own_change_{half}": f"the change in time {around}",
            f"own_ratio_{half}": f"the change in time relative to that along the vessel {around}",
        }
    words |= {
        "change_light": "the change in time relative to the light of the vessel",
        "change_space": "the change in time relative to the structure of the mean frame",
        "change_noise": "the change in time relative to the noise",
        "flicker_noise": "the change from frame to frame relative to the noise",
        "flicker_space": "the change from frame to frame relative to the mean frame",
        "drift_space": "the change of the light in time relative to that in space",
    }
    words |= {f"pattern_{lag}": f"the correlation of patterns {lag} frames apart" for lag in LAGS}
    words |= {
        "pattern_least": "the lowest correlation of two neighbouring patterns",
        "memory_1": "how much of a change is left after 1 frame",
        "memory_2": "how much of a change is left after 2 frames",
        "memory_3": "how much of a change is left after 3 frames",
        "skew": "the skew of the change in time",
        "streaks": "how much more the change varies between rows than along them",
        "rows": "how much more the mean frame varies between rows than along them",
        "area": "the share of the region that the vessel fills (logarithm)",
    }
    return words


DESCRIPTIONS = _describe()
FEATURES = tuple(DESCRIPTIONS)


class Structure(NamedTuple):
    """The vessel of a clip and its frames in focus: P pixels in the region, V in the vessel."""

    window: tuple[slice, slice]  # rows and columns of the clip, h x w: the region and little more
    frames: NDArray[np.intp]  # (T,): the frames of the clip that are neither black nor copies

    inside: NDArray[np.bool_]  # (h, w): the outlined region, one pixel less at its edge
    low: Stack  # (h, w, T): blurred grey levels
    high: Stack  # (h, w, n): band-passed frames in focus, 0 outside
    local: Stack  # (h, w, n): mean of what is inside, within `COARSE_PX`
    sharp: slice  # of the T frames, the n in focus
    energy: NDArray[np.float64]  # (T,): mean square of the band-passed frame
    noise: float  # standard deviation of a pixel's noise, grey levels
    vessel: NDArray[np.bool_]  # (h, w)
    closed: F32  # (h, w): light in focus, with gaps closed
    dark_level: float  # grey level of the background


def measure(pixels: Frames) -> F32:
    """Measure the features of a clip.

    Black frames and exact repetitions are left out.

    Parameters
    ----------
    pixels : ndarray
        uint8 (T, S, S, 2): grey, and the mask (0 or 255).

    Returns
    -------
    ndarray
        float32 (len(FEATURES),), in the order of `FEATURES`, always finite. Ratios are natural
        logarithms.
    """
    clip = find_structure(pixels)
    values = {
        **_look(clip),
        **_correlate(clip),
        **_darkness(clip),
        **_own_focus(clip),
        **_change(clip),
        **_texture(clip),
    }
    row = np.array([values[name] for name in FEATURES], np.float32)
    return np.nan_to_num(row, nan=0.0, posinf=0.0, neginf=0.0)


def find_structure(pixels: Frames) -> Structure:
    """Find the vessel and the frames in focus.

    Parameters
    ----------
    pixels : ndarray
        uint8 (T, H, W, 2): grey, and the mask (0 or 255). Black frames and exact repetitions are
        left out.
    """
    mask = pixels[0, ..., 1] > 127
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for region in (mask, np.ones_like(mask)):
        if inside.sum() < FEWEST_PIXELS:
            inside = region
    # Only the surroundings of the region: half of a clip is further away.
    rows, columns = (_around(np.asarray(inside.any(axis=axis))) for axis in (1, 0))
    inside = inside[rows, columns]
    cut = pixels[:, rows, columns, 0]
    frames = _find_shown(cut, inside)
    grey = np.moveaxis(cut[frames], 0, -1).astype(np.float32, order="C")  # (h, w, T)
    weight = inside.astype(np.float32)[..., None]  # (h, w, 1)
    low = _blur(grey, FINE_PX)
    # The mean of what is inside only, so that the surround does not matter.
    local = _blur(grey * weight, COARSE_PX) / (_blur(weight, COARSE_PX) + TINY)
    high = (low - local) * weight
    energy = (high[inside].astype(np.float64) ** 2).mean(axis=0)
    sharp = _find_focus(energy)
    low_sharp, local_sharp = low[..., sharp], np.ascontiguousarray(local[..., sharp])
    brightest = np.sort(low_sharp, axis=2)[..., -max(1, low_sharp.shape[2] // 5) :].mean(axis=2)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP_PX, GAP_PX))
    closed = np.asarray(cv2.morphologyEx(brightest, cv2.MORPH_CLOSE, disc), np.float32)
    vessel = inside & (closed > _otsu(closed[inside]))
    if vessel.sum() < FEWEST_PIXELS:
        vessel = inside
    return Structure(
        (rows, columns), frames, inside, low, np.ascontiguousarray(high[..., sharp]), local_sharp,
        sharp, energy,
        _noise(grey[..., sharp], inside), vessel, closed,
        float(np.percentile(local_sharp[inside], 10)),
    )  # fmt: skip


def _around(wanted: NDArray[np.bool_]) -> slice:
    """Return where a row of pixels is wanted, and the few beside it that the fine blur reaches."""
    places = np.flatnonzero(wanted)
    return slice(max(int(places[0]) - 3, 0), int(places[-1]) + 4)


def _find_shown(grey: Frames, inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Leave out black frames and copies of the frame before, unless too few would be left."""
    flat = grey[:, inside]  # (T, P): a surround may be black in every frame
    lit = flat.max(axis=1) >= LIT
    copies = np.append(False, (flat[1:] == flat[:-1]).mean(axis=1) > SAME)
    kept = lit & ~copies
    if kept.sum() < FEWEST_FRAMES:
        kept = lit
    return np.flatnonzero(kept if kept.sum() >= FEWEST_FRAMES else np.ones_like(kept))


def _find_focus(energy: NDArray[np.float64]) -> slice:
    """Return the frames around the sharpest whose energy is above half its range."""
    padded = np.pad(energy, 1, mode="edge")
    smooth = np.convolve(padded, [0.25, 0.5, 0.25], "valid")  # (T,)
    cut = (smooth.max() + np.percentile(smooth, 10)) / 2
    first = last = int(smooth.argmax())
    end = len(smooth) - 1
    while first > 0 and smooth[first - 1] >= cut:
        first -= 1
    while last < end and smooth[last + 1] >= cut:
        last += 1
    while last - first + 1 < min(FEWEST_FRAMES, end + 1):
        if first > 0 and (last == end or smooth[first - 1] >= smooth[last + 1]):
            first -= 1
        else:
            last += 1
    return slice(first, last + 1)


def _look(clip: Structure) -> Values:
    sharpest, usual = clip.energy.max(), np.median(clip.energy)
    structure = np.sqrt(clip.energy[clip.sharp].mean()) + TINY
    return {
        "frames_in_focus": float(np.log(clip.high.shape[2])),
        "focus": _log_ratio(sharpest, usual, TINY),
        "noise": _log_ratio(clip.noise, structure),
        "haze": _log_ratio(clip.local[clip.inside].mean(), structure),
    }


def _correlate(clip: Structure) -> Values:
    """Correlate each frame with later ones in small windows, weighted by their structure."""
    values: Values = {}
    high, inside = clip.high, clip.inside
    for size in WINDOWS_PX:
        share = _box(inside.astype(np.float32)[..., None], size) + TINY  # (h, w, 1)
        mean = _box(high, size) / share  # (h, w, n)
        deviation = np.sqrt(np.maximum(_box(high * high, size) / share - mean**2, 0))
        first = TINY
        for lag in LAGS if size == WINDOWS_PX[0] else LAGS[::2]:
            before, after = _pairs(high, lag)
            common = _box(before * after, size) / share
            before, after = _pairs(mean, lag)
            common = (common - before * after)[inside]  # (P, pairs)
            before, after = _pairs(deviation, lag)
            weight = (before * after)[inside] + TINY
            # Half a grey level squared, so that rounding does not correlate with itself.
            same = common / (weight + 0.5)
            place = weight.mean(axis=1)  # (P,)
            peak = same[place >= np.quantile(place, 0.97)]
            values |= {
                f"same_{size}_{lag}": float((same * weight).sum() / weight.sum()),
                f"peak_{size}_{lag}": float(peak.mean()),
                f"weak_{size}_{lag}": float(np.quantile(peak, 0.1)),
            }
            if lag == 1:
                first = float(common.mean()) + TINY
            else:
                values[f"kept_{size}_{lag}"] = float(np.clip(common.mean() / first, -1, 1.5))
            if lag == 1 and size == WINDOWS_PX[-1]:
                values |= _spread(same, weight)
    return values


def _spread(same: F32, weight: F32) -> Values:
    """Describe local correlations (P, pairs) over time and over places.

    A flowing vessel may cross a stalled one, and the other way round.
    """
    by_pair = np.sort((same * weight).sum(axis=0) / weight.sum(axis=0))
    by_place = (same * weight).sum(axis=1) / weight.sum(axis=1)
    place = weight.mean(axis=1)
    shares = np.quantile(by_place[place >= np.quantile(place, 0.7)], [0.1, 0.5, 0.9])
    return {
        "same_least": float(by_pair[: max(1, len(by_pair) // 5)].mean()),
        "same_p10": float(shares[0]),
        "same_p50": float(shares[1]),
        "same_p90": float(shares[2]),
    }


def _darkness(clip: Structure) -> Values:
    height = clip.closed - clip.dark_level + TINY  # (h, w)
    light = (clip.low[..., clip.sharp] - clip.dark_level)[clip.vessel]  # (V, n)
    light = np.clip(light / height[clip.vessel][:, None], -1, 2)
    most, least = light.max(axis=1), light.min(axis=1)
    # Shares of the closed vessel's light, chosen: a cell blocks 45 to 95 % of it (simulated).
    dim, once = float((most < 0.75).mean()), float((least < 0.5).mean())
    return {
        "dark_in_all": float((most < 0.6).mean()),
        "dim_in_all": dim,
        "dark_once": once,
        "bright_in_all": float((least > 0.7).mean()),
        "dim_stays": _log_ratio(dim, once, 0.02),
    }


def _own_focus(clip: Structure) -> Values:
    """Follow each place of the vessel through the frames in which it is brightest.

    An oblique vessel is never in focus as a whole.
    """
    near = _box(np.maximum(clip.low - clip.dark_level, 0), WINDOWS_PX[-1])[clip.vessel]  # (V, T)
    light = clip.low[clip.vessel] - clip.dark_level
    best, end = near.argmax(axis=1)[:, None], near.shape[1] - 1
    values: Values = {}
    for half in OWN_HALVES:
        at = np.clip(best + np.arange(-half, half + 1), 0, end)  # (V, 2 * half + 1)
        level = np.take_along_axis(light, at, 1) / (np.take_along_axis(near, at, 1) + 1)
        dark = level < 0.8  # chosen: darker than its surroundings by more than their noise
        stays = float(dark.all(axis=1).mean())
        steady = level.mean(axis=1, keepdims=True)
        change = float((level - steady).std())
        values |= {
            f"own_dark_{half}": stays,
            f"own_bright_{half}": float((~dark).all(axis=1).mean()),
            f"own_stays_{half}": _log_ratio(stays, float(dark.mean()), 0.02),
            f"own_change_{half}": float(np.log(change + 0.02)),
            f"own_ratio_{half}": _log_ratio(change, float(steady.std()), 0.02),
        }
    return values


def _change(clip: Structure) -> Values:
    pattern = clip.high[clip.vessel]  # (V, n)
    change = pattern.std(axis=1).mean()
    structure = pattern.mean(axis=1).std()
    level = abs(clip.local[clip.vessel].mean() - clip.dark_level)
    # Going in and out of focus is smooth in time; the second difference leaves it out.
    flicker = np.diff(pattern, 2, axis=1).std() / np.sqrt(6) if pattern.shape[1] > 2 else change
    light = clip.low[..., clip.sharp][clip.vessel]
    light = light - light.mean(axis=0)
    return {
        "change_light": _log_ratio(change, level),
        "change_space": _log_ratio(change, structure),
        "change_noise": _log_ratio(change, clip.noise),
        "flicker_noise": _log_ratio(flicker, clip.noise),
        "flicker_space": _log_ratio(flicker, structure),
        "drift_space": _log_ratio(light.std(axis=1).mean(), light.mean(axis=1).std()),
    }


def _texture(clip: Structure) -> Values:
    pattern = clip.high[clip.vessel]  # (V, n)
    values: Values = {}
    centred = pattern - pattern.mean(axis=0)
    centred = centred / (np.sqrt((centred**2).sum(axis=0)) + TINY)
    for lag in LAGS:
        before, after = _pairs(centred, lag)
        alike = (before * after).sum(axis=0)
        values[f"pattern_{lag}"] = float(alike.mean())
        if lag == 1:
            values["pattern_least"] = float(alike.min())
    moving = pattern - pattern.mean(axis=1, keepdims=True)
    power = float((moving**2).sum()) + TINY
    for lag in LAGS[:3]:
        before, after = _pairs(moving, lag)
        values[f"memory_{lag}"] = float((before * after).sum()) / power
    cubes, squares = (moving**3).mean(axis=1), (moving**2).mean(axis=1)
    values["skew"] = float(np.tanh((cubes / (squares + TINY) ** 1.5).mean()))
    still = clip.high.mean(axis=2, keepdims=True)
    values["streaks"] = _across_rows(clip.high - still, clip.vessel)
    values["rows"] = _across_rows(still, clip.vessel)
    values["area"] = float(np.log(clip.vessel.sum() / clip.inside.sum()))
    return values


def _across_rows(image: Stack, vessel: NDArray[np.bool_]) -> float:
    """Compare steps between rows with steps along them; a moving cell is sheared into rows."""
    along = np.abs(np.diff(image, axis=1))[vessel[:, 1:] & vessel[:, :-1]]
    across = np.abs(np.diff(image, axis=0))[vessel[1:] & vessel[:-1]]
    return _log_ratio(across.mean(), along.mean()) if along.size and across.size else 0.0


def _noise(grey: Stack, inside: NDArray[np.bool_]) -> float:
    """Estimate the standard deviation of a pixel's noise from the Laplacian (median, mean)."""
    differences = _in_parts(lambda part: cv2.Laplacian(part, cv2.CV_32F), grey)[inside]
    # 20 is the sum of the squared weights of the Laplacian; 0.6745 makes a median a deviation.
    return float(np.median(np.abs(differences), axis=0).mean()) / 0.6745 / 20**0.5


def _log_ratio(value: float, reference: float, rounding: float = ROUNDING) -> float:
    return float(np.log((value + rounding) / (reference + rounding)))


def _pairs(stack: NDArray[np.float32], lag: int) -> tuple[F32, F32]:
    """Return the frames that have one `lag` later, and those; a short stack has shorter lags."""
    lag = min(lag, max(stack.shape[-1] - 1, 0))
    return stack[..., : stack.shape[-1] - lag], stack[..., lag:]


def _blur(stack: Stack, deviation_px: float) -> Stack:
    return _in_parts(lambda part: cv2.GaussianBlur(part, (0, 0), deviation_px), stack)


def _box(stack: Stack, size: int) -> Stack:
    return _in_parts(lambda part: cv2.blur(part, (size, size)), stack)


def _in_parts(change: Callable[[Stack], Any], stack: Stack) -> Stack:
    """Apply an OpenCV filter to all frames of a stack (h, w, T)."""
    changed = np.empty(stack.shape, np.float32)
    for start in range(0, stack.shape[2], CHANNELS):
        part = np.ascontiguousarray(stack[..., start : start + CHANNELS])
        # OpenCV drops the last axis if there is one channel.
        changed[..., start : start + CHANNELS] = change(part).reshape(part.shape)
    return changed


def _otsu(values: F32) -> float:
    """Return the threshold that best separates two groups of values (P,) (Otsu 1979)."""
    # The range of an even region is widened, or its bins would have no width.
    counts, edges = np.histogram(values, 64, (float(values.min()), float(values.max()) + 1e-3))
    share = counts / counts.sum()
    middle = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(share), np.cumsum(share * middle)
    between = (sums[-1] * below - sums) ** 2 / (below * (1 - below) + TINY)
    return float(middle[int(between[:-1].argmax())])
