"""The twelve projects: how much each recorded, and how: a corpus is as mixed as the real one."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Rng = np.random.Generator

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# The same as normal deviates; the ends are those of one recording in 100,000.
DEVIATES = [NormalDist().inv_cdf(min(max(each, 1e-5), 1 - 1e-5)) for each in QUANTILES]


@dataclass(frozen=True)
class Project:
    """One project.

    Numbers of recordings and frames are those of the real training table (docs/facts.md 4). How
    each was recorded is not known: the optics are chosen, so that the twelve span what is seen in
    the real recordings (docs/facts.md 5). Recordings vary around them: see `microscope`.

    Attributes
    ----------
    letter : str
        Its name.
    recordings, stalled : int
        Real recordings of it, and the stalled ones among them.
    frames : tuple of int
        Frames of its real recordings at each of `QUANTILES`.
    um_per_px : float
        Size of a pixel; docs/facts.md 5 has about 1.
    step_um : float
        Depth between frames; docs/facts.md 1 has about 1.
    psf_xy_um, psf_z_um : float
        Standard deviations of the point spread function: a segment in the plane is in focus for
        6-12 frames (docs/facts.md 5).
    photons : float
        Photons a pixel from undiluted plasma.
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
    """Draw the project of a recording, as often as real ones with this label come from each.

    Parameters
    ----------
    rng : Generator
        Source of the number.
    stalled : bool
        The label.

    Returns
    -------
    Project
        One of `PROJECTS`.
    """
    counts = np.array(
        [each.stalled if stalled else each.recordings - each.stalled for each in PROJECTS]
    )
    return PROJECTS[int(rng.choice(len(PROJECTS), p=counts / counts.sum()))]


def draw_frame_count(rng: Rng, project: Project) -> int:
    """Draw a number of frames as in the project's real recordings.

    Parameters
    ----------
    rng : Generator
        Source of the number.
    project : Project
        Whose quantiles, between which numbers are interpolated.

    Returns
    -------
    int
        Frames, 17..434.
    """
    # Between two quantiles real numbers thin out as those of a log-normal do; drawn evenly, they
    # would lift the upper quartile of all from 66 to 68 and the 99th percentile from 128 to 143.
    return round(math.exp(np.interp(rng.standard_normal(), DEVIATES, np.log(project.frames))))
