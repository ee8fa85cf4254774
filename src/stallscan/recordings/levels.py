"""Pixels of any number type as uint8: the same picture gives the same levels, whatever its type.

All frames of a recording are converted alike, by the values that occur in any of them:

1. Whole numbers from 0 to 255 are taken as they are.
2. Floating-point numbers from 0 to 1 are multiplied by 255; others up to 255 are rounded.
3. Colours beyond are divided by their full range. Its bits are those that the file declares, or
   the fewest of 10, 12, 14, 16 and 32 (for signed integers, also 15 and 31) that hold the highest
   value. A drawn outline reaches nearly the full range. Where the highest value does not, the
   number of bits is unknown and the recording is refused, as are colours below 0.
4. Grey levels beyond are stretched from the lowest to the 99.9th percentile, as display software
   does.

NaN and negative infinity become 0, infinity 255.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings.recording import Frames

# Share of the full range that the highest colour must reach. Outlines are drawn at 255 of 255, and
# the published rule wants red of at least 200 of 255 (0.78).
_NEARLY_FULL = 0.75
# Rounding and resampling may leave a range by half a grey level of 255.
_SLACK = 0.5 / 255
_DEPTHS = (10, 12, 14, 16, 32)
# Values converted at once: floating point takes eight times the memory of the levels.
_BLOCK = 2**20

Arrays = Callable[[], Iterator[NDArray[Any]]]
Scale = Callable[[NDArray[Any]], Frames]


class _Values(NamedTuple):
    """The finite values of all frames: the lowest, the highest, and whether all are whole."""

    low: float
    high: float
    are_whole: bool


def scale_of(
    path: Path, dtype: np.dtype[Any], arrays: Arrays, *, is_colour: bool, bits: int | None = None
) -> Scale:
    """Choose how the frames of a recording become uint8.

    Parameters
    ----------
    path : Path
        For messages.
    dtype : dtype
        Of the frames: an integer or floating-point type.
    arrays : callable
        Gives an iterator over the frames each time it is called; at most two passes are made.
    is_colour : bool
        Whether the frames are (H, W, 3) rather than (H, W).
    bits : int, optional
        Significant bits of a value, where the file declares them.

    Raises
    ------
    UnreadableError
        If colours are below 0, or their full range is unknown.
    """
    if dtype == np.uint8 and (not is_colour or bits in (None, 8)):
        return lambda array: np.asarray(array, dtype=np.uint8)
    if is_colour and bits and dtype.kind == "u":
        return _linear(0.0, 2.0**bits - 1)
    values = _survey(arrays())
    if dtype.kind == "f" and _within(values, 1.0):
        return _linear(0.0, 1.0)
    if _within(values, 255.0):
        return _linear(0.0, 255.0)
    if not is_colour:
        return _linear(values.low, _bright(arrays()))
    if values.low < 0:
        raise UnreadableError(
            f"{path}: its colours go below 0 (to {values.low:g}), so their range is unknown. "
            "Convert the recording to 8-bit RGB"
        )
    depths = _DEPTHS if dtype.kind != "i" else (*_DEPTHS, 8 * dtype.itemsize - 1)
    full = min((2.0**n - 1 for n in depths if 2.0**n - 1 >= values.high), default=np.inf)
    if values.high < _NEARLY_FULL * full:
        raise UnreadableError(
            f"{path}: its colours reach {values.high:g}, and the file does not say how many bits "
            "they have. Convert the recording to 8-bit RGB"
        )
    return _linear(0.0, full)


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
    """Return the highest of the frames' 99.9th percentiles."""
    finite = (_finite(array) for array in arrays)
    return float(max(np.percentile(values, 99.9) for values in finite if values.size))


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    return array[np.isfinite(array)] if array.dtype.kind == "f" else array


def _linear(low: float, high: float) -> Scale:
    """Bring `low`..`high` to 0..255."""
    gain = 255.0 / max(high - low, 1e-12)

    def convert(array: NDArray[Any]) -> Frames:
        known = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        levels = np.rint((np.clip(known, low, high) - low) * gain)
        return np.clip(levels, 0, 255).astype(np.uint8)

    def scale(array: NDArray[Any]) -> Frames:
        return np.concatenate([convert(rows) for rows in np.array_split(array, _blocks(array))])

    return scale


def _blocks(array: NDArray[Any]) -> int:
    return min(max(-(-array.size // _BLOCK), 1), len(array))
