"""Recordings that are broken in the ways in which files are, each kind with its known status."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import tifffile

from stallscan.recordings.encode import write_video
from stallscan.recordings.recording import Frames, to_grey

PAGE = "<!DOCTYPE html>\n<html><title>404 Not Found</title><body>No such file.</body></html>\n"
MANY = 10**9


@dataclass(frozen=True)
class Good:
    """A good recording to break: its frames, uint8 (T, H, W, 3), and its mp4 file."""

    frames: Frames
    mp4: bytes


@dataclass(frozen=True)
class Kind:
    """A way of being broken.

    Attributes
    ----------
    status : str
        What the table of predictions must say.
    write : callable
        Writes such a file at a path with the suffix `suffix`.
    """

    status: str
    write: Callable[[Path, Good], object]
    suffix: str = ".mp4"


def _write_header_first(path: Path, good: Good, end: float = 1.0) -> None:
    """Write the index before the frames, so that a file that ends early has its first frames."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=15)
        stream.height, stream.width = good.frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", 1
        for index, array in enumerate(good.frames):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: int(end * len(content))])


def _write_rotten(path: Path, good: Good) -> None:
    """Change bytes in the middle of a packet in the middle of the file."""
    path.write_bytes(good.mp4)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = packets[len(packets) // 2]
    start = int(packet.pos or 0) + packet.size // 3
    content = bytearray(good.mp4)
    for place in range(start, start + packet.size // 6):
        content[place] ^= 0x5A
    path.write_bytes(content)


def _write_without_frames(path: Path, good: Good) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=15)
        stream.height, stream.width = good.frames.shape[1:3]
        stream.pix_fmt = "yuvj420p"
        container.start_encoding()


def _write_bomb(path: Path, good: Good) -> None:
    """Declare `MANY` frames of a byte."""
    content = bytearray(good.mp4)
    place = content.index(b"stsz") + 8
    content[place : place + 8] = (1).to_bytes(4, "big") + MANY.to_bytes(4, "big")
    path.write_bytes(content)


KINDS = {
    "empty": Kind("unreadable", lambda path, _: path.write_bytes(b"")),
    "index missing": Kind(
        "unreadable", lambda path, good: path.write_bytes(good.mp4[: len(good.mp4) // 2])
    ),
    "end missing": Kind("damaged", lambda path, good: _write_header_first(path, good, end=0.7)),
    "bytes changed": Kind("damaged", _write_rotten),
    "text": Kind("unreadable", lambda path, _: path.write_text("notes\n" * 100)),
    "error page": Kind("unreadable", lambda path, _: path.write_text(PAGE)),
    "no frames": Kind("unreadable", _write_without_frames, ".avi"),
    "one frame": Kind("too_short", lambda path, good: write_video(path, good.frames[:1])),
    "no outline": Kind("no_outline", lambda path, good: write_video(path, to_grey(good.frames))),
    "two outlines": Kind(
        "several_outlines",
        lambda path, good: write_video(path, np.concatenate([good.frames, good.frames], axis=2)),
    ),
    "black": Kind("no_outline", lambda path, good: write_video(path, np.zeros_like(good.frames))),
    "other ending": Kind(
        "unreadable",
        lambda path, good: tifffile.imwrite(path, good.frames, photometric="rgb"),
    ),
    "bomb": Kind("unreadable", _write_bomb),
    "link to nothing": Kind("unreadable", lambda path, _: path.symlink_to(f"gone {path.name}")),
}
if hasattr(os, "mkfifo"):
    KINDS["pipe"] = Kind("unreadable", lambda path, _: os.mkfifo(path))


def write(folder: Path, count: int, good: Good) -> dict[str, str]:
    """Write `count` broken files, all kinds in turn; return the status of each by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    statuses = {}
    for number in range(count):
        name, kind = list(KINDS.items())[number % len(KINDS)]
        path = folder / f"{number:05d} {name}{kind.suffix}"
        if not os.path.lexists(path):
            kind.write(path, good)
        statuses[path.name] = kind.status
    return statuses
