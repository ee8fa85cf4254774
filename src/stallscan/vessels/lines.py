"""Curves in space: points evenly spaced along them."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def resample(curves: F64, step_um: float = 1.0) -> list[F64]:
    """Bring curves to points about `step_um` apart.

    Parameters
    ----------
    curves : ndarray
        float64 (curves, n, 3) in um.
    step_um : float
        Distance wanted.

    Returns
    -------
    list of ndarray
        float64 (m, 3) for each curve, m at least 2.
    """
    # All curves in one go, put one behind the other on one long arc with gaps between.
    steps = np.linalg.norm(np.diff(curves, axis=1), axis=2)
    arc = np.concatenate([np.zeros((len(curves), 1)), np.cumsum(steps, axis=1)], axis=1)
    length = arc[:, -1]
    begin = np.cumsum(length + 1) - (length + 1)
    parts = np.maximum(np.rint(length / step_um), 1).astype(int)
    index = np.repeat(np.arange(len(curves)), parts + 1)
    place = np.arange(len(index)) - np.repeat(np.cumsum(parts + 1) - (parts + 1), parts + 1)
    wanted = begin[index] + length[index] * place / parts[index]
    known = (arc + begin[:, None]).ravel()
    flat = np.column_stack(
        [np.interp(wanted, known, curves[:, :, axis].ravel()) for axis in range(3)]
    )
    return cut(flat, parts + 1)


def cut(table: F64, sizes: NDArray[np.int64]) -> list[F64]:
    """Cut a table into parts of so many rows; of hundreds, much faster than `numpy.split`."""
    ends = np.cumsum(sizes).tolist()
    return [table[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
