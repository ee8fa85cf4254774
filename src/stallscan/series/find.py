"""The capillary segments of a time series at one depth, found in the mean of its frames.

`vessels.segment` looks for tubes in depth. So the mean image is given a depth: it fades on either
side of its plane, as the blurred vessels of a stack do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.vessels.regions import Field, Regions, outline_lines
from stallscan.vessels.segment import SegmentSettings, find_segments

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Standard deviation with which the image fades, about the radius of a capillary (docs/facts.md 5),
# and the planes on either side of it.
FADE_UM, PLANES = 2.5, 8


@dataclass(frozen=True)
class _Faded:
    """Planes of a mean image, float32 (H, W), that fades to a dark value; computed when read."""

    mean: F32
    dark: np.float32
    fade: F32  # (planes,)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.fade), *self.mean.shape

    def __getitem__(self, index: slice, /) -> F32:
        return np.asarray(
            self.dark + (self.mean - self.dark) * self.fade[index, None, None], np.float32
        )


def find_lines(mean: F32, sides_um: tuple[float, ...]) -> list[F64]:
    """Find the centre lines of capillaries in a mean image, each float64 (n, 3) in plane 0.

    Parameters
    ----------
    mean : ndarray
        float32 (H, W).
    sides_um : tuple of float
        Height and width of a pixel.
    """
    settings = SegmentSettings()
    plane_um = max(*sides_um, 1.0)
    depth_um = np.arange(-PLANES, PLANES + 1) * plane_um
    fade = np.exp(-0.5 * (depth_um / FADE_UM) ** 2).astype(np.float32)
    dark = np.float32(np.percentile(mean, 5))
    planes = _Faded(mean, dark, fade)
    found = find_segments(planes, (plane_um, sides_um[0], sides_um[1]), settings).capillaries
    return [
        each.line * np.array([0.0, 1.0, 1.0])
        for each in found
        if each.radius_um <= settings.capillary_radius_um
    ]


def find_regions(path: Path, mean: F32, field: Field) -> tuple[Regions, list[F64]]:
    """Return a region around each capillary, and their lines.

    Raises
    ------
    InputError
        If there is none.
    """
    lines = find_lines(mean, field.voxel_um[1:])
    if not lines:
        raise InputError(
            f"{path}: no capillary segments were found in the mean of its frames. Outline the "
            "vessels yourself (--regions)"
        )
    return outline_lines(lines, field), lines
