"""A stack in overlapping blocks of nearly cubic voxels, a few planes in memory at a time."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Sides = tuple[float, float, float]

# chosen: capillaries are 4 to 8 um wide (docs/facts.md 5), so smaller voxels only take time
FINEST_UM = 1.0
# chosen: planes are interpolated to at most four per distance, as in `labels.read_network`
PER_PLANE = 4
# Percentiles of a plane that stand for tissue and for vessels, which fill a few percent of it.
TISSUE, VESSEL = 25, 99
SMOOTH_UM = 20.0  # chosen: levels change more slowly with depth
# A step of the laser power changes the level of tissue by more than this share of the range of a
# plane, and this many times the usual change from plane to plane. Chosen: a step by a quarter
# changes it by 8 %, and 50 times, in a simulated stack.
STEP_SHARE, STEP_TIMES = 0.05, 10.0
# chosen: least range of a plane relative to that of the brightest; less is noise without vessels
LEAST_RANGE = 0.02
# chosen: brighter specks are cut off, which also keeps half precision exact enough
LARGEST = 100.0
# Size of a block without and of its halo. Chosen: what is found near a block's face depends on
# 12 um beyond it for the widest blur, and the end of a skeleton on 5 um more; larger blocks need
# more than 1 GB of memory.
SLAB_UM, BLOCK_UM, HALO_UM = 50.0, 250.0, 18.0
# A level needs no more pixels of a plane than this.
LEVEL_PX = 2**16


class Planes(Protocol):
    """Anything that returns planes (n, H, W) for a slice: an array, a memory map, a lazy reader."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of planes, rows and columns."""

    def __getitem__(self, index: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Block:
    """A part of a stack on the grid.

    Attributes
    ----------
    values : ndarray
        float32 (D, H, W): 0 for tissue and 1 for the brightest vessels at that depth, not clipped.
    start : tuple of int
        Voxel of the grid at which `values` begins, z, y, x.
    core : tuple of slice
        The voxels of `values` that belong to this block alone; others overlap with neighbours.
    """

    values: F32
    start: tuple[int, int, int]
    core: tuple[slice, slice, slice]


class Grid:
    """The nearly cubic voxels on which vessels are looked for.

    Parameters
    ----------
    planes : Planes
        The stack, (Z, H, W).
    um_per_voxel : tuple of float
        Size of its voxels along z, y, x in um, each above 0.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the grid along z, y, x.
    sides_um : ndarray
        float64 (3,): size of these voxels along z, y, x.
    """

    def __init__(self, planes: Planes, um_per_voxel: Sides) -> None:
        self._planes = planes
        given = np.array(um_per_voxel, np.float64)
        across = np.maximum(given, FINEST_UM)
        across[0] = max(across[1:].max(), given[0] / PER_PLANE)
        size = np.array(planes.shape[:3]) * given
        self.shape = tuple(np.maximum(np.rint(size / across), 1).astype(int).tolist())
        self.sides_um: F64 = size / self.shape
        # voxels of the stack per voxel of the grid
        self.ratio: F64 = np.array(planes.shape[:3]) / self.shape
        self._levels: F64 | None = None

    def in_stack(self, voxels: F64) -> F64:
        """Convert positions on the grid, (n, 3), to voxels of the stack."""
        return (voxels + 0.5) * self.ratio - 0.5

    @property
    def planes(self) -> int:
        """Number of planes of the stack."""
        return self._planes.shape[0]

    def measure_levels(self) -> None:
        """Measure the levels of all planes, which `contrast` and `read` need."""
        levels = np.empty((self._planes.shape[0], 2))
        step = max(1, math.isqrt(self._planes.shape[1] * self._planes.shape[2] // LEVEL_PX))
        rounding = 0.0
        for index in range(len(levels)):
            plane = self._planes[index : index + 1][0]
            rounding = 1.0 if plane.dtype.kind in "ui" else 0.0
            tissue, vessel = np.percentile(plane[::step, ::step], [TISSUE, VESSEL])
            # A thin vessel on plain black covers less than the percentile.
            levels[index] = tissue, vessel if vessel > tissue else plane.max()
        sigma = SMOOTH_UM / (self.sides_um[0] / self.ratio[0])
        self._levels = np.concatenate(
            [
                ndimage.gaussian_filter1d(part, sigma, axis=0, mode="nearest")
                for part in np.split(levels, _find_steps(levels, rounding))
            ]
        )

    @property
    def contrast(self) -> float:
        """Largest difference between vessels and tissue in grey levels; 0 for a constant stack."""
        assert self._levels is not None
        return float(np.ptp(self._levels, axis=1).max())

    def slabs(self) -> list[tuple[int, int]]:
        """Return the first plane, and the last plane + 1, of each slab on the grid."""
        return _split(self.shape[0], float(self.sides_um[0]), SLAB_UM)

    def read(self, first: int, last: int) -> Iterator[Block]:
        """Yield planes `first` to `last` of the grid in blocks that extend by `HALO_UM`."""
        halo = np.ceil(HALO_UM / self.sides_um).astype(int).tolist()
        depths, core = _extend(first, last, halo[0], self.shape[0])
        slab = self._read_planes(depths.start, depths.stop)
        parts = [_split(self.shape[axis], float(self.sides_um[axis]), BLOCK_UM) for axis in (1, 2)]
        for (top, bottom), (left, right) in itertools.product(*parts):
            rows, row_core = _extend(top, bottom, halo[1], self.shape[1])
            columns, column_core = _extend(left, right, halo[2], self.shape[2])
            yield Block(
                slab[:, rows, columns].astype(np.float32),
                (depths.start, rows.start, columns.start),
                (core, row_core, column_core),
            )

    def _read_planes(self, start: int, stop: int) -> NDArray[np.float16]:
        """Read planes of the grid; half precision is finer than the noise, and saves memory."""
        weights, low = self._weights(start, stop)  # (D, n)
        assert self._levels is not None
        least = LEAST_RANGE * self.contrast
        values = np.zeros((stop - start, *self.shape[1:]), np.float16)
        for index in range(weights.shape[1]):
            plane = np.asarray(self._planes[low + index : low + index + 1][0], np.float32)
            tissue, vessel = self._levels[low + index]
            plane = (plane - np.float32(tissue)) / np.float32(max(vessel - tissue, least))
            plane = np.clip(plane, -LARGEST, LARGEST)
            if plane.shape != self.shape[1:]:
                resized = cv2.resize(plane, self.shape[:0:-1], interpolation=cv2.INTER_AREA)
                plane = np.asarray(resized, np.float32)
            for depth in np.flatnonzero(weights[:, index]):
                values[depth] += weights[depth, index] * plane
        return values

    def _weights(self, start: int, stop: int) -> tuple[F32, int]:
        """Return what each plane of the stack adds to each of the grid, and the first such plane.

        Between planes that are far apart this is linear interpolation. Planes that are closer than
        those of the grid are averaged.
        """
        count = self._planes.shape[0]
        centre = (np.arange(start, stop) + 0.5) * self.ratio[0] - 0.5
        centre = np.clip(centre, 0, count - 1)
        reach = max(1.0, float(self.ratio[0]))
        low = max(0, math.floor(centre[0] - reach))
        high = min(count, math.ceil(centre[-1] + reach) + 1)
        away = np.abs(centre[:, None] - np.arange(low, high))
        weights = np.maximum(1 - away / reach, 0)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32), low


def _find_steps(levels: F64, rounding: float) -> NDArray[np.int64]:
    """Return the planes from which on all is suddenly brighter or darker.

    Many people raise the laser power with depth. Levels that were smoothed across such a step would
    be wrong on either side, and noise would look like vessels.

    Parameters
    ----------
    levels : ndarray
        float64 (planes, 2): tissue and vessels.
    rounding : float
        A change by this much may be rounding.
    """
    if len(levels) < 2:
        return np.zeros(0, np.int64)
    change = np.abs(np.diff(levels[:, 0]))
    least = max(
        STEP_SHARE * float(np.median(np.ptp(levels, axis=1))),
        STEP_TIMES * float(np.median(change)),
        rounding,
    )
    return np.flatnonzero(change > least) + 1


def _split(count: int, side_um: float, size_um: float) -> list[tuple[int, int]]:
    """Split voxels of an axis into parts of about `size_um`; return the bounds of each."""
    parts = max(1, round(count * side_um / size_um))
    edges = np.rint(np.linspace(0, count, parts + 1)).astype(int).tolist()
    return list(itertools.pairwise(edges))


def _extend(first: int, last: int, halo: int, count: int) -> tuple[slice, slice]:
    """Extend a part of an axis by a halo; return that, and the part within it."""
    start = max(first - halo, 0)
    return slice(start, min(last + halo, count)), slice(first - start, last - start)
