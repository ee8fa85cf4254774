"""Recordings: finding the files, decoding them whole, and writing the competition's H.264.

Video is decoded by PyAV with one thread; frames are counted by decoding them, because headers may
miscount (FACTS: by one frame in the competition's files).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import cv2
import numpy as np

from stallscan.errors import InputError, UnreadableError
from stallscan.files import atomic_path
from stallscan.recording import Frames, Recording, collect
from stallscan.stack import read_npy, read_tiff

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".gif"})
STACK_SUFFIXES = frozenset({".tif", ".tiff"})
ARRAY_SUFFIXES = frozenset({".npy"})
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"
SUFFIXES = VIDEO_SUFFIXES | STACK_SUFFIXES | ARRAY_SUFFIXES

# 455 frames of 512 x 384 RGB: the longest recording of the competition (434) fits.
HOLD_BYTES = 256 * 2**20


class Source(NamedTuple):
    """A recording on disk, under the name that stands for it in every table."""

    filename: str
    path: Path


def read(path: str | Path, hold_bytes: int = HOLD_BYTES) -> Recording:
    """Decode a recording: mp4, avi, mov, mkv, gif, tiff or npy.

    Parameters
    ----------
    path : str or Path
        The file.
    hold_bytes : int
        Recordings with more bytes than this are not kept in memory; `Recording.chunks` then
        decodes the file once more each time it is called.

    Raises
    ------
    UnreadableError
        If the file is missing, empty, or nothing in it can be decoded as frames of one size.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be opened ({error.strerror})") from None
    if size == 0:
        raise UnreadableError(f"{path}: the file is empty; copy or download it again")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return _read_video(path, hold_bytes)
    if suffix in STACK_SUFFIXES:
        return read_tiff(path, hold_bytes)
    if suffix in ARRAY_SUFFIXES:
        return read_npy(path, hold_bytes)
    raise UnreadableError(
        f"{path}: {suffix or 'a file without suffix'} is not a format that stallscan reads "
        f"({', '.join(sorted(SUFFIXES))})"
    )


def list_recordings(paths: Sequence[str | Path]) -> list[Source]:
    """Find the recordings in any mix of files and folders.

    A folder is searched with all its subfolders; hidden files are passed over. A recording's name
    is its path inside the given folder (with ``/``), or the bare file name of a file given by
    itself; where two would be called the same, both are called by their whole path. The same file
    given twice counts once.

    Returns
    -------
    list of Source
        In the order given, sorted by name inside each folder.

    Raises
    ------
    InputError
        If a path does not exist or there is no recording in any of them.
    """
    found: dict[Path, Source] = {}
    for given in map(Path, paths):
        if given.is_dir():
            for path in _walk(given):
                source = Source(path.relative_to(given).as_posix(), path.absolute())
                found.setdefault(path.resolve(), source)
        elif given.exists():
            found.setdefault(given.resolve(), Source(given.name, given.absolute()))
        else:
            raise InputError(f"{given}: no such file or folder")
    if not found:
        given_names = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{given_names}: no recordings found; expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    count = Counter(source.filename for source in found.values())
    return [
        source if count[source.filename] == 1 else Source(source.path.as_posix(), source.path)
        for source in found.values()
    ]


def write(
    path: str | Path,
    frames: Iterable[Frames],
    *,
    frame_rate: int = 15,
    crf: int = 15,
    keyframe_interval: int = 1,
    preset: str = "medium",
) -> None:
    """Encode frames as H.264 High, yuv420p, mp4, in one atomic step.

    The defaults are those of the competition's files (FACTS 5): every frame intra, crf 15, 15
    frames a second.

    Parameters
    ----------
    path : str or Path
        The mp4 file to write.
    frames : iterable of ndarray
        uint8 (H, W, 3) RGB or (H, W) grey each, all of one size, H and W even.
    frame_rate : int
        Frames per second.
    crf : int
        Constant rate factor of x264, 0 (lossless) to 51.
    keyframe_interval : int
        Frames from one intra frame to the next; 1 makes every frame intra.
    preset : str
        x264's trade of speed against size.
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
            # As ffmpeg's programs do by default; the library's own default dulls thin lines.
            picture = picture.reformat(format="yuv420p", interpolation="BICUBIC")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def to_grey(frames: Frames) -> Frames:
    """Luma of RGB frames (BT.601), or grey frames as they are.

    Parameters
    ----------
    frames : ndarray
        uint8 (T, H, W, 3) RGB or (T, H, W).

    Returns
    -------
    ndarray
        uint8 (T, H, W).
    """
    if frames.ndim == 3:
        return frames
    count, height, width, _ = frames.shape
    tall = cv2.cvtColor(frames.reshape(count * height, width, 3), cv2.COLOR_RGB2GRAY)
    return np.asarray(tall, dtype=np.uint8).reshape(count, height, width)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path


def _read_video(path: Path, hold_bytes: int) -> Recording:
    header: dict[str, int | None] = {}
    corrupt: list[int] = []

    def decode() -> Iterator[Frames]:
        try:
            # FFmpeg takes a name with a colon for an address, and a text that lists other files
            # (ffconcat, HLS) for a video.
            options = {"format_whitelist": VIDEO_FORMATS}
            with av.open(f"file:{path}", container_options=options) as container:
                streams = container.streams.video
                # Without a codec context PyAV crashes the process on decoding (PyAV issue 2344).
                if not streams or getattr(streams[0], "codec_context", None) is None:
                    raise UnreadableError(f"{path}: holds no video that can be decoded")
                header["frames"] = streams[0].frames or _frames_by_duration(container, streams[0])
                yield from _decode_stream(container, streams[0], corrupt)
                if container.format.name == "gif" and not _ends_as_gif(path):
                    corrupt.append(header["frames"] or 0)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(
                f"{path}: not readable as {path.suffix[1:].lower()} video ({reason}); "
                "copy or download it again"
            ) from None

    return collect(path, decode, hold_bytes, lambda: header["frames"], corrupt)


def _frames_by_duration(container: Any, stream: Any) -> int | None:
    """Count frames by the length in the header, where (as in Matroska) it holds no count."""
    if not container.duration or not stream.average_rate:
        return None
    count: int = round(container.duration * stream.average_rate / av.time_base)
    return count


def _ends_as_gif(path: Path) -> bool:
    # A gif declares no count of its own; that its trailer is missing tells that it was cut.
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b";"


def _decode_stream(container: Any, stream: Any, corrupt: list[int]) -> Iterator[Frames]:
    """Yield RGB frames; packets with errors are noted in `corrupt` and give no frame."""
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    # Without this the decoder hides broken slices behind pixels of its own invention.
    stream.codec_context.options = {"err_detect": "explode"}
    packets = container.demux(stream)
    index = 0
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            # The file ends in the middle of a packet: what was decoded so far counts.
            corrupt.append(index)
            return
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            corrupt.append(index)
            decoded = []
        for frame in decoded:
            if frame.is_corrupt:
                corrupt.append(index)
            else:
                yield frame.to_ndarray(format="rgb24")
        index += 1
