"""The twelve projects of the competition: numbers of recordings, frame counts, and optics."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Rng = np.random.Generator

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# The quantiles as normal deviates; 0 and 1 become one recording in 100,000.
DEVIATES = [NormalDist().inv_cdf(min(max(each, 1e-5), 1 - 1e-5)) for each in QUANTILES]


@dataclass(frozen=True)
class Project:
    """One project.

    Numbers of recordings and frames are those of the real training table (docs/facts.md 4). The
    real optics are unknown; they are chosen so that the projects span the range of the real
    recordings (docs/facts.md 5). Single recordings vary around them: see `microscope`.

    Attributes
    ----------
    letter : str
        Name of the project.
    recordings, stalled : int
        Number of real recordings, and how many of them are stalled.
    frames : tuple of int
        Quantiles of the number of frames of the real recordings, at `QUANTILES`.
    um_per_px : float
        Size of a pixel; docs/facts.md 5 has about 1.
    step_um : float
        Depth between frames; docs/facts.md 1 has about 1.
    psf_xy_um, psf_z_um : float
        Standard deviations of the point spread function. They keep a segment in the image plane
        in focus for 6-12 frames (docs/facts.md 5).
    photons : float
        Photons per pixel from undiluted plasma.
    background : float
        Brightness of tissue relative to plasma.
    """

    letter: str
    recordings: int
    stalled: int
    frames: tuple[int, ...]
    um_per_px: float
    step_um: float
    psf_xy_um: float
    psf_z_um: float
    photons: float
    background: float


# fmt: off
PROJECTS = (
    Project("A", 143495, 284, (23, 38, 50, 56, 66, 92, 123, 290), 1.0, 1.0, 1.05, 1.9, 82, 0.1),
    Project("C", 67023, 203, (19, 36, 51, 60, 73, 109, 148, 319), 0.95, 1.0, 1.0, 2.0, 55, 0.14),
    Project("D", 20454, 46, (23, 34, 50, 57, 70, 106, 149, 300), 1.1, 1.0, 1.15, 2.2, 36, 0.18),
    Project("E", 31832, 73, (23, 31, 48, 56, 69, 104, 136, 258), 1.0, 1.0, 1.2, 2.3, 109, 0.06),
    Project("F", 60794, 371, (17, 36, 50, 57, 68, 95, 126, 261), 1.0, 1.0, 1.1, 2.0, 22, 0.2),
    Project("G", 81994, 221, (23, 35, 48, 54, 63, 85, 113, 241), 0.9, 1.0, 0.95, 1.7, 127, 0.05),
    Project("H", 74231, 67, (23, 29, 47, 52, 59, 82, 110, 270), 1.05, 1.0, 1.1, 2.1, 64, 0.12),
    Project("I", 21851, 197, (23, 28, 46, 50, 58, 81, 108, 185), 1.0, 0.9, 1.25, 2.3, 46, 0.1),
    Project("J", 5037, 39, (24, 48, 56, 66, 82, 121, 157, 434), 0.95, 1.0, 1.0, 1.8, 140, 0.04),
    Project("K", 27077, 92, (20, 45, 52, 60, 73, 110, 151, 342), 1.1, 1.1, 1.2, 2.2, 29, 0.16),
    Project("L", 444, 133, (33, 47, 55, 64, 80, 116, 139, 163), 1.0, 1.0, 1.0, 1.9, 91, 0.08),
    Project("M", 38816, 161, (23, 34, 49, 55, 65, 86, 112, 266), 1.05, 1.0, 1.05, 2.1, 44, 0.12),
)
# fmt: on


def draw_project(rng: Rng, stalled: bool) -> Project:
    """Draw a project of `PROJECTS` with the frequencies of real recordings with this label."""
    counts = np.array(
        [each.stalled if stalled else each.recordings - each.stalled for each in PROJECTS]
    )
    return PROJECTS[int(rng.choice(len(PROJECTS), p=counts / counts.sum()))]


def draw_frame_count(rng: Rng, project: Project) -> int:
    """Draw a number of frames, 17..434, from the distribution of the project's real recordings."""
    # Interpolate as in a log-normal distribution. Linear interpolation between the quantiles would
    # raise the overall upper quartile from 66 to 68 and the 99th percentile from 128 to 143.
    return round(math.exp(np.interp(rng.standard_normal(), DEVIATES, np.log(project.frames))))
