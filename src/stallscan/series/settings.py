"""Settings of time series at one depth."""

from typing import Literal

from pydantic import Field

from stallscan.settings import Settings


class SeriesSettings(Settings):
    """How stalls are found in a time series.

    Attributes
    ----------
    signal : str
        ``pattern``: blood cells are visible, and a stall is a pattern of cells that stays (movies
        of two-photon microscopes). ``brightness``: moving blood is bright, and a stall is dark (OCT
        angiograms).
    least_s : float
        Blood that stands still for a shorter time is no stall, s.
    visible_s : float or None
        Segments in which only longer stalls would be visible are unknown, s. None: 30 s, or 10
        frames if these take longer.
    """

    signal: Literal["pattern", "brightness"] = "pattern"
    least_s: float = Field(default=1.0, gt=0)
    visible_s: float | None = Field(default=None, gt=0)

    def longest_visible_s(self, frame_s: float) -> float:
        """Return `visible_s`, or its default for this time from frame to frame."""
        return self.visible_s or max(30.0, 10 * frame_s)
