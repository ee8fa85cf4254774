"""Writing video files."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from stallscan.files import atomic_path
from stallscan.recordings.recording import Frames


def write_video(
    path: str | Path,
    frames: Iterable[Frames],
    *,
    frame_rate: int = 15,
    crf: int = 15,
    keyframe_interval: int = 1,
    preset: str = "medium",
) -> None:
    """Write an mp4 file (H.264 High, yuv420p) atomically.

    The defaults match the competition's files (docs/facts.md 5): only intra frames, crf 15,
    15 frames per second.

    Parameters
    ----------
    frames : iterable of ndarray
        uint8 (H, W, 3) RGB or (H, W) grey, all of the same size, H and W even.
    crf : int
        Constant rate factor of x264, 0 (lossless) to 51.
    keyframe_interval : int
        Distance between intra frames, in frames.
    """
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        options = {"crf": str(crf), "preset": preset}
        stream: Any = container.add_stream("libx264", rate=Fraction(frame_rate), options=options)
        stream.pix_fmt = "yuv420p"
        stream.gop_size = keyframe_interval
        stream.codec_context.thread_count = 1
        for index, array in enumerate(frames):
            if index == 0:
                stream.height, stream.width = array.shape[:2]
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(array), format="rgb24" if array.ndim == 3 else "gray"
            )
            # The default of the ffmpeg command; that of the library dulls thin lines.
            picture = picture.reformat(format="yuv420p", interpolation="BICUBIC")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
