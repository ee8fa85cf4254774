"""The look of simulated recordings: the ranges from which optics, noise and display are drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from stallscan.errors import SettingsError
from stallscan.settings import Settings, read_yaml
from stallscan.simulate.projects import Project
from stallscan.words import suggest

SHIPPED = Path(__file__).with_name("looks")


def _check_range(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if not 0 <= low <= high:
        raise ValueError(f"{low:g} to {high:g} is not a range of values from 0 up, lower end first")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_check_range)]


class LookSettings(Settings):
    """Ranges of what a microscope makes of the same blood.

    Each is a lower and an upper end. None takes the value of the recording's project, which
    varies from recording to recording (`projects`, `microscope`). The other defaults span the real
    recordings (docs/facts.md 5). `looks/` has the shipped ones.

    Attributes
    ----------
    um_per_px, step_um : tuple of float or None
        Size of a pixel, and depth between frames, um.
    psf_xy_um, psf_z_um : tuple of float or None
        Standard deviations of the point spread function, um.
    photons : tuple of float or None
        Photons per pixel from undiluted plasma.
    background : tuple of float or None
        Brightness of tissue relative to plasma.
    frame_s : tuple of float
        Seconds from frame to frame.
    excess : tuple of float
        Standard deviation of the gain for one photon, relative to its mean.
    read_noise : tuple of float
        Standard deviation of the detector noise, photons.
    row_noise : tuple of float
        Standard deviation of the noise that a whole row shares, photons.
    blur_along_px, blur_across_px : tuple of float
        Standard deviations of the blur along and across rows, pixels.
    black_level, white_level : tuple of float
        Light displayed as black, relative to the tissue, and as white, relative to undiluted
        plasma.
    gamma : tuple of float
        Exponent of the display: grey levels 0..1 are raised to it.
    """

    um_per_px: Range | None = None
    step_um: Range | None = None
    psf_xy_um: Range | None = None
    psf_z_um: Range | None = None
    photons: Range | None = None
    background: Range | None = None
    frame_s: Range = (0.5, 1.0)
    excess: Range = (0.2, 0.5)
    read_noise: Range = (0.1, 0.6)
    row_noise: Range = (0.0, 0.0)
    blur_along_px: Range = (0.6, 1.2)
    blur_across_px: Range = (0.4, 0.8)
    black_level: Range = (0.0, 1.15)
    white_level: Range = (0.32, 0.95)
    gamma: Range = (1.0, 1.0)


def read_look(which: str | Path) -> LookSettings:
    """Read a look from a YAML file or, given its name, a shipped one.

    Raises
    ------
    SettingsError
        If it does not exist, or a setting is unknown or invalid.
    """
    shipped = SHIPPED / f"{which}.yaml"
    path = shipped if shipped.is_file() else Path(which)
    if not path.is_file():
        names = sorted(item.stem for item in SHIPPED.glob("*.yaml"))
        raise SettingsError(
            f"{which}: no such look{suggest(str(which), names)}. Give a YAML file or the name of a "
            f"shipped look: {', '.join(names)}"
        )
    return LookSettings.parse(read_yaml(path), str(path))


def vary_project(rng: np.random.Generator, project: Project, look: LookSettings) -> Project:
    """Replace what the look gives ranges for, each value drawn log-uniformly."""
    names = ("um_per_px", "step_um", "psf_xy_um", "psf_z_um", "photons", "background")
    ranges = {name: limits for name in names if (limits := getattr(look, name)) is not None}
    drawn: dict[str, Any] = {name: draw(rng, limits) for name, limits in ranges.items()}
    return replace(project, **drawn)


def draw(rng: np.random.Generator, limits: Range) -> float:
    """Draw a value log-uniformly, or uniformly if the range starts at 0."""
    low, high = limits
    if low == 0:
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
