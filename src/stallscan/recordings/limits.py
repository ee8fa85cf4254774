"""Limits on the size of a recording, checked by its header before memory is allocated.

Within these limits, a process needs at most about 1.5 GB to read a recording, find its outline and
cut its clip: 70 to 80 bytes per pixel of a frame, most of them for the outline, which is found in
the mean of the frames. A larger recording could exhaust memory and end the whole run.

Files can be made to take more, in libraries that believe what a header says. So a process that
decodes recordings for others gets at most `MEMORY_BYTES`, and is killed after `Limits.seconds_for`
a file.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
from pydantic import Field

from stallscan.errors import UnreadableError
from stallscan.settings import Settings

# Four times 2048 x 2048, the largest frame of common resonant scanners, and twice 4K video.
FRAME_PX = 4096 * 4096
# More than 5 minutes at 30 frames per second; the competition's longest recording has 434 frames.
FRAMES = 10_000
# Pages of all channels, times and depths of a raw stack, of which at most FRAMES are read. Chosen:
# ten times as many; their headers take 13 s and 430 MB.
STACK_PAGES = 10 * FRAMES
# What is decoded at once: an RGB frame of FRAME_PX in float64 has 384 MiB, a TIFF page may hold
# many planes.
PAGE_BYTES = 512 * 2**20
# All frames together, each decoded several times: 1,024 frames of FRAME_PX, or 10 minutes of 1024 x
# 1024 at 27 frames per second. Frames without content are a few bytes of a file.
TOTAL_PX = 2**34
# Time to decode a recording once, or a child process's time for all of it: hundreds of times the
# usual time, plus the time to read the file from the slowest network drive.
RECORDING_S, SLOWEST_BYTES_S = 600.0, 500_000
# What a decoding process may allocate beyond its libraries: more than twice what it needs.
MEMORY_BYTES = 4 * 2**30
_CV_NO_MEMORY = -4  # OpenCV's StsNoMem


class Limits(Settings):
    """The largest recording that stallscan reads.

    `page_bytes` are the decoded bytes of a frame, or of a TIFF page that holds several frames.
    """

    frame_px: int = Field(default=FRAME_PX, ge=1)
    frames: int = Field(default=FRAMES, ge=1)
    page_bytes: int = Field(default=PAGE_BYTES, ge=1)
    total_px: int = Field(default=TOTAL_PX, ge=1)
    seconds: float = Field(default=RECORDING_S, gt=0)

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

    def check_count(self, path: Path, frames: int, pixels: int = 0) -> None:
        """Raise UnreadableError if there are too many frames, or too many of `pixels` each."""
        if frames > self.frames or frames * pixels > self.total_px:
            most = min(self.frames, self.total_px // max(pixels, 1))
            raise UnreadableError(
                f"{path}: has more than {most:,} frames. Split it into shorter recordings"
            )

    def seconds_for(self, path: Path) -> float:
        """Return the time limit for a file, by its size; that of an empty one if it is missing."""
        try:
            return self.seconds + path.stat().st_size / SLOWEST_BYTES_S
        except OSError:
            return self.seconds

    def clock(self, path: Path) -> Callable[[], None]:
        """Start to measure time; return a function that raises UnreadableError after too long."""
        limit_s = self.seconds_for(path)
        end = time.monotonic() + limit_s

        def check() -> None:
            if time.monotonic() > end:
                raise UnreadableError(
                    f"{path}: decoding takes longer than {limit_s:.0f} s. Split it into shorter "
                    "recordings, or crop it around the outlined segment"
                )

        return check


LIMITS = Limits()
STACK_LIMITS = Limits(frames=STACK_PAGES)


@contextlib.contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Turn a lack of memory in the block into an UnreadableError."""
    try:
        yield
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != _CV_NO_MEMORY:
            raise
        raise UnreadableError(
            f"{path}: does not fit into memory. Crop the recording around the segment"
        ) from None
