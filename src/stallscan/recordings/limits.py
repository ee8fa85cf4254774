"""Limits on the size of a recording, checked by its header before memory is allocated.

Within these limits, a process needs at most about 1.5 GB to read a recording, find its outline and
cut its clip: 70 to 80 bytes per pixel of a frame, most of them for the outline, which is found in
the mean of the frames. A larger recording could exhaust memory and end the whole run.
"""

from pathlib import Path

from pydantic import Field

from stallscan.errors import UnreadableError
from stallscan.settings import Settings

# Four times 2048 x 2048, the largest frame of common resonant scanners, and twice 4K video.
FRAME_PX = 4096 * 4096
# More than 5 minutes at 30 frames per second; the competition's longest recording has 434 frames.
FRAMES = 10_000
# What is decoded at once: an RGB frame of FRAME_PX in float64 has 384 MiB, a TIFF page may hold
# many planes.
PAGE_BYTES = 512 * 2**20


class Limits(Settings):
    """The largest recording that stallscan reads.

    `page_bytes` are the decoded bytes of a frame, or of a TIFF page that holds several frames.
    """

    frame_px: int = Field(default=FRAME_PX, ge=1)
    frames: int = Field(default=FRAMES, ge=1)
    page_bytes: int = Field(default=PAGE_BYTES, ge=1)

    def check_frame(self, path: Path, height: int, width: int, nbytes: int = 0) -> None:
        """Raise UnreadableError if a frame, or a page of `nbytes` decoded bytes, is too large."""
        if height * width > self.frame_px:
            side = int(self.frame_px**0.5)
            raise UnreadableError(
                f"{path}: frames of {width} x {height} pixels are too large (limit {side} x "
                f"{side}). Crop the recording around the outlined segment"
            )
        if nbytes > self.page_bytes:
            raise UnreadableError(
                f"{path}: a page of the file takes {nbytes / 2**20:,.0f} MiB of memory (limit "
                f"{self.page_bytes / 2**20:,.0f} MiB). Crop the recording around the outlined "
                "segment, and save each frame as a page of its own"
            )

    def check_count(self, path: Path, frames: int) -> None:
        """Raise UnreadableError if there are too many frames."""
        if frames > self.frames:
            raise UnreadableError(
                f"{path}: has more than {self.frames:,} frames. Split it into shorter recordings"
            )


LIMITS = Limits()
