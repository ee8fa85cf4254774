"""Resampling of curves in the plane or in space."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def resample(curves: F64, step_um: float = 1.0) -> list[F64]:
    """Resample curves, float64 (curves, n, axes), to points about `step_um` apart.

    Returns
    -------
    list of ndarray
        float64 (m, axes) for each curve, m at least 2. Any unit of length will do.
    """
    # Interpolate all curves at once, as if they followed each other with gaps of 1 um.
    steps = np.linalg.norm(np.diff(curves, axis=1), axis=2)  # (curves, n - 1)
    arc = np.concatenate([np.zeros((len(curves), 1)), np.cumsum(steps, axis=1)], axis=1)
    length = arc[:, -1]
    begin = np.cumsum(length + 1) - (length + 1)
    intervals = np.maximum(np.rint(length / step_um), 1).astype(int)  # (curves,)
    sizes = intervals + 1
    # For each of all points: its curve, and its number within the curve.
    curve = np.repeat(np.arange(len(curves)), sizes)
    number = np.arange(len(curve)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = begin[curve] + length[curve] * number / intervals[curve]
    given = (arc + begin[:, None]).ravel()
    flat = np.column_stack(
        [np.interp(wanted, given, curves[:, :, axis].ravel()) for axis in range(curves.shape[2])]
    )
    return cut(flat, sizes)


def cut(table: F64, sizes: NDArray[np.int64]) -> list[F64]:
    """Split a table into blocks of the given numbers of rows, much faster than `numpy.split`."""
    ends = np.cumsum(sizes).tolist()
    return [table[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
