"""The look of simulated recordings: ranges of optics, noise and display, and shares of content."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from stallscan.errors import SettingsError
from stallscan.settings import Settings, read_yaml
from stallscan.simulate.projects import Project
from stallscan.words import suggest

SHIPPED = Path(__file__).with_name("looks")


Limits = tuple[float, float]


def _range(least: float, most: float) -> AfterValidator:
    """Return the check of a range whose values make sense from `least` to `most`."""

    def check(limits: Limits) -> Limits:
        low, high = limits
        if not least <= low <= high <= most:
            raise ValueError(
                f"{low:g} to {high:g} is not a range within {least:g} to {most:g}, lower end first"
            )
        return limits

    return AfterValidator(check)


# Chosen far beyond any microscope: smaller or larger scenes take all memory, or have no vessel.
Micrometres = Annotated[Limits, _range(0.2, 5)]
Positive = Annotated[Limits, _range(0.05, 10)]
Photons = Annotated[Limits, _range(0.5, 10_000)]
Share = Annotated[Limits, _range(0, 2)]
Deviation = Annotated[Limits, _range(0, 100)]


class LookSettings(Settings):
    """Ranges of what a microscope makes of the same blood.

    Each is a lower and an upper end. None takes the value of the recording's project, which
    varies from recording to recording (`projects`, `microscope`). The other defaults span the real
    recordings (docs/facts.md 5). `looks/` has the shipped ones.

    Attributes
    ----------
    share : float
        Share of the recordings that have this look, above 0; the others have the competition's.
    clear : float
        Share of the vessels with hardly any cells, bright and smooth; a stall there shows as one or
        two gaps. 0..1.
    steep : float
        Share of the outlined segments that run steeply through the image planes, so that a part of
        them is in focus in most frames. 0..1.
    crossed : float
        Share of the outlined regions that a wide vessel crosses above or below the segment. 0..1.
    um_per_px, step_um : tuple of float or None
        Size of a pixel, and depth between frames, um.
    psf_xy_um, psf_z_um : tuple of float or None
        Standard deviations of the point spread function, um; recordings vary by 10 % (across) and
        15 % (in depth) around them.
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

    share: float = Field(default=1.0, gt=0, le=1)
    clear: float = Field(default=0.0, ge=0, le=1)
    steep: float = Field(default=0.0, ge=0, le=1)
    crossed: float = Field(default=0.0, ge=0, le=1)
    um_per_px: Micrometres | None = None
    step_um: Micrometres | None = None
    psf_xy_um: Micrometres | None = None
    psf_z_um: Micrometres | None = None
    photons: Photons | None = None
    background: Share | None = None
    frame_s: Positive = (0.5, 1.0)
    excess: Deviation = (0.2, 0.5)
    read_noise: Deviation = (0.1, 0.6)
    row_noise: Deviation = (0.0, 0.0)
    blur_along_px: Deviation = (0.6, 1.2)
    blur_across_px: Deviation = (0.4, 0.8)
    black_level: Share = (0.0, 1.15)
    white_level: Positive = (0.32, 0.95)
    gamma: Positive = (1.0, 1.0)


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


def draw_look(rng: np.random.Generator, look: LookSettings) -> LookSettings:
    """Draw whether a recording has the look, or that of the competition."""
    return look if look.share == 1 or rng.random() < look.share else LookSettings()


def vary_project(rng: np.random.Generator, project: Project, look: LookSettings) -> Project:
    """Replace what the look gives ranges for, each value drawn log-uniformly."""
    names = ("um_per_px", "step_um", "psf_xy_um", "psf_z_um", "photons", "background")
    ranges = {name: limits for name in names if (limits := getattr(look, name)) is not None}
    drawn: dict[str, Any] = {name: draw(rng, limits) for name, limits in ranges.items()}
    return replace(project, **drawn)


def draw(rng: np.random.Generator, limits: Limits) -> float:
    """Draw a value log-uniformly, or uniformly if the range starts at 0."""
    low, high = limits
    if low == 0:
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
