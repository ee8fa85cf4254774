"""How large a recording may be, checked by its header before its pixels take memory.

Within these limits, reading a recording, finding its outline and cutting its clip take at most
about 1.5 GB in a process: 70 to 80 bytes for each pixel of a frame, most of them for the outline,
which is found in the mean of the frames. Beyond them memory would end the run, and with it the
recordings that are not too large.
"""

from pathlib import Path

from pydantic import Field

from stallscan.errors import UnreadableError
from stallscan.settings import Settings

# Four times a frame of 2048 x 2048, the largest of usual resonant scanners; 4K video has half.
FRAME_PX = 4096 * 4096
# More than 5 minutes at 30 frames a second; the longest recording of the competition has 434.
FRAMES = 10_000
# What has to be decoded at once: an RGB frame of FRAME_PX in float64, or a TIFF page with all its
# planes.
PAGE_BYTES = 512 * 2**20


class Limits(Settings):
    """The largest recording that is read.

    Attributes
    ----------
    frame_px : int
        Pixels in a frame.
    frames : int
        Frames in a recording.
    page_bytes : int
        Bytes of a frame, or of a TIFF page that holds several, as decoded.
    """

    frame_px: int = Field(default=FRAME_PX, ge=1)
    frames: int = Field(default=FRAMES, ge=1)
    page_bytes: int = Field(default=PAGE_BYTES, ge=1)

    def check_frame(self, path: Path, height: int, width: int, nbytes: int = 0) -> None:
        """Raise UnreadableError if a frame of that size, or a page of `nbytes`, is too large."""
        if height * width > self.frame_px:
            side = int(self.frame_px**0.5)
            raise UnreadableError(
                f"{path}: its frames have {width} x {height} pixels, more than the largest that "
                f"are read ({side} x {side}). Crop the recording around the segment"
            )
        if nbytes > self.page_bytes:
            raise UnreadableError(
                f"{path}: one of its pages takes {nbytes / 2**20:,.0f} MiB of memory, at most "
                f"{self.page_bytes / 2**20:,.0f} are read. Crop the recording around the segment, "
                "and save a page for each frame"
            )

    def check_count(self, path: Path, frames: int) -> None:
        """Raise UnreadableError if these are too many frames."""
        if frames > self.frames:
            raise UnreadableError(
                f"{path}: it has more than {self.frames:,} frames. "
                "Cut the recording into shorter ones"
            )


LIMITS = Limits()
