"""Conversion of pixels to uint8, so that the same image gives the same levels in any number type.

All frames of a recording are scaled alike, by the values that occur in any of them:

1. Integers from 0 to 255 are kept.
2. Floating-point numbers from 0 to 1 are multiplied by 255; others up to 255 are rounded.
3. Colours outside of 0..255 are divided by their full range: the number of bits that the file
   declares, else the smallest of 10, 12, 14, 16 and 32 (for signed integers also 15 and 31) that
   holds the highest value. A drawn outline reaches nearly the full range. If the highest value does
   not, the number of bits is unknown and the recording is refused, as are colours below 0.
4. Grey levels outside of 0..255 are stretched from the minimum to the 99.9th percentile, as display
   software does.

NaN and negative infinity become 0, infinity 255.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings.recording import Frames

# Share of the full range that the highest value must reach. Outlines are drawn at 255 of 255, and
# the published rule requires red of at least 200 of 255 (0.78).
_NEARLY_FULL = 0.75
# Rounding and resampling may exceed a range by half a grey level of 255.
_SLACK = 0.5 / 255
_DEPTHS = (10, 12, 14, 16, 32)
# docs/facts.md 5: percentiles 5 and 99 of the only original recording are 0 and 243.
BLACK_PERCENTILE, WHITE_PERCENTILE, WHITE_GREY = 5.0, 99.0, 243
# Values converted at a time: float64 takes eight times the memory of uint8.
_BLOCK = 2**20

Arrays = Callable[[], Iterator[NDArray[Any]]]
Scale = Callable[[NDArray[Any]], Frames]


class _Values(NamedTuple):
    """Range of the finite values of all frames, and whether all of them are integers."""

    low: float
    high: float
    are_whole: bool


def scale_of(
    path: Path, dtype: np.dtype[Any], arrays: Arrays, *, is_colour: bool, bits: int | None = None
) -> Scale:
    """Return the function that converts the frames of a recording to uint8.

    Parameters
    ----------
    arrays : callable
        Returns a new iterator over the frames; called at most twice.
    is_colour : bool
        Whether frames are (H, W, 3) rather than (H, W).
    bits : int, optional
        Significant bits per value, if the file declares them.

    Raises
    ------
    UnreadableError
        If colours are below 0, or their full range is unknown.
    """
    if dtype == np.uint8 and (not is_colour or bits in (None, 8)):
        return lambda array: np.asarray(array, dtype=np.uint8)
    if is_colour and bits and dtype.kind == "u":
        return linear(0.0, 2.0**bits - 1)
    values = _survey(arrays())
    if dtype.kind == "f" and _within(values, 1.0):
        return linear(0.0, 1.0)
    if _within(values, 255.0):
        return linear(0.0, 255.0)
    if not is_colour:
        return linear(values.low, _bright(arrays()))
    if values.low < 0:
        raise UnreadableError(
            f"{path}: has colour values below 0 (down to {values.low:g}), so their range is "
            "unknown. Convert the recording to 8-bit RGB"
        )
    depths = _DEPTHS if dtype.kind != "i" else (*_DEPTHS, 8 * dtype.itemsize - 1)
    full = min((2.0**n - 1 for n in depths if 2.0**n - 1 >= values.high), default=np.inf)
    if values.high < _NEARLY_FULL * full:
        raise UnreadableError(
            f"{path}: has colour values up to {values.high:g}, and does not declare how many bits "
            "they use. Convert the recording to 8-bit RGB"
        )
    return linear(0.0, full)


def _within(values: _Values, top: float) -> bool:
    slack = 0.0 if values.are_whole else _SLACK * top
    return values.low >= -slack and values.high <= top + slack


def _survey(arrays: Iterator[NDArray[Any]]) -> _Values:
    low, high, are_whole = np.inf, -np.inf, True
    for array in arrays:
        values = _finite(array)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        if array.dtype.kind == "f" and are_whole:
            are_whole = bool((values == np.rint(values)).all())
    return _Values(low, high, are_whole) if low <= high else _Values(0.0, 0.0, True)


def _bright(arrays: Iterator[NDArray[Any]]) -> float:
    """Return the highest 99.9th percentile of a frame."""
    finite = (_finite(array) for array in arrays)
    return float(max(np.percentile(values, 99.9) for values in finite if values.size))


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    return array[np.isfinite(array)] if array.dtype.kind == "f" else array


def linear(low: float, high: float) -> Scale:
    """Return the linear scale from `low`..`high` to 0..255, clipped; NaN becomes 0."""
    gain = 255.0 / max(high - low, 1e-12)

    def convert(array: NDArray[Any]) -> Frames:
        finite = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        levels = np.rint((np.clip(finite, low, high) - low) * gain)
        return np.clip(levels, 0, 255).astype(np.uint8)

    def scale(array: NDArray[Any]) -> Frames:
        blocks = min(max(-(-array.size // _BLOCK), 1), len(array))  # blocks of rows
        return np.concatenate([convert(rows) for rows in np.array_split(array, blocks)])

    return scale


def stretch(sample: NDArray[Any], black: float, white: float) -> tuple[float, float]:
    """Return the values that become grey levels 0 and 255 in a raw stack.

    Parameters
    ----------
    sample : ndarray
        Values of the stack, any numeric type; NaN and infinity are left out.
    black, white : float
        The percentiles that become grey levels 0 and `WHITE_GREY`, as in the training recordings.

    Returns
    -------
    low, high : float
        With `low` below `high`, unless the percentiles are equal.
    """
    low, top = (float(value) for value in np.percentile(_finite(sample), [black, white]))
    return low, low + (top - low) * 255 / WHITE_GREY
