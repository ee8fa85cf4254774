"""Recordings: finding the files, decoding them whole, and writing the competition's H.264.

Video is decoded by PyAV with one thread; frames are counted by decoding them, because headers may
miscount (FACTS: by one frame in the competition's files).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import av
import av.error
import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from stallscan.errors import InputError, UnreadableError
from stallscan.files import atomic_path

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".gif"})
STACK_SUFFIXES = frozenset({".tif", ".tiff"})
ARRAY_SUFFIXES = frozenset({".npy"})
SUFFIXES = VIDEO_SUFFIXES | STACK_SUFFIXES | ARRAY_SUFFIXES

# 512 x 384 RGB: 910 frames, twice the longest recording of the competition (434).
HOLD_BYTES = 512 * 2**20
# Frames handed on at once when a recording is too large to be held: about 19 MB at 512 x 384.
CHUNK_FRAMES = 32

Frames = NDArray[np.uint8]


class Source(NamedTuple):
    """A recording on disk, under the name that stands for it in every table."""

    filename: str
    path: Path


@dataclass(frozen=True)
class Recording:
    """The decoded frames of one video or stack.

    Attributes
    ----------
    path : Path
        Where it was read from.
    shape : tuple of int
        (T, H, W, 3) RGB, or (T, H, W) grey.
    frames_declared : int or None
        What the header says, None where the format says nothing. T counts what decodes.
    corrupt : tuple of int
        Packets or pages, counted from 0 in the file, that could not be decoded without error;
        their frames are not among the T.
    """

    path: Path
    shape: tuple[int, ...]
    frames_declared: int | None
    corrupt: tuple[int, ...]
    _held: Frames | None = field(repr=False)
    _decode: Callable[[], Iterator[Frames]] = field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_damaged(self) -> bool:
        """Whether frames are missing beyond the one that headers may miscount."""
        missing = 0 if self.frames_declared is None else self.frames_declared - len(self)
        return bool(self.corrupt) or missing > 1

    @property
    def frames(self) -> Frames:
        """All frames at once, uint8 of `shape`; decodes again if they were too many to hold."""
        if self._held is not None:
            return self._held
        return np.concatenate(list(self.chunks()))

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames in order, some at a time, in bounded memory.

        Yields
        ------
        ndarray
            uint8 (n, H, W, 3) RGB or (n, H, W), n at least 1; all of them when they are held.
        """
        if self._held is not None:
            yield self._held
            return
        pending: list[Frames] = []
        for frame in self._decode():
            pending.append(frame)
            if len(pending) == CHUNK_FRAMES:
                yield np.stack(pending)
                pending = []
        if pending:
            yield np.stack(pending)


def from_array(frames: Frames, path: str | Path = "<array>") -> Recording:
    """Take frames that are in memory already as a recording.

    Parameters
    ----------
    frames : ndarray
        uint8 (T, H, W, 3) RGB or (T, H, W), T at least 1.
    path : str or Path
        What to call it in messages.
    """
    path = Path(path)
    _check_shape(frames.shape, path)
    if frames.dtype != np.uint8:
        raise UnreadableError(f"{path}: frames are {frames.dtype}, expected uint8")
    return Recording(path, frames.shape, None, (), frames, lambda: iter(frames))


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
        return _read_tiff(path, hold_bytes)
    if suffix in ARRAY_SUFFIXES:
        return _read_npy(path)
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
    found: dict[Path, str] = {}
    for given in map(Path, paths):
        if given.is_dir():
            for path in _walk(given):
                found.setdefault(path.resolve(), path.relative_to(given).as_posix())
        elif given.exists():
            found.setdefault(given.resolve(), given.name)
        else:
            raise InputError(f"{given}: no such file or folder")
    if not found:
        given_names = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{given_names}: no recordings found; expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    count: dict[str, int] = {}
    for name in found.values():
        count[name] = count.get(name, 0) + 1
    return [
        Source(name if count[name] == 1 else PurePosixPath(path).as_posix(), path)
        for path, name in found.items()
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


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
        raise UnreadableError(
            f"{path}: the frames have shape {shape}, expected (frames, rows, columns) or "
            "(frames, rows, columns, 3)"
        )


def _collect(
    path: Path,
    decode: Callable[[], Iterator[Frames]],
    hold_bytes: int,
    frames_declared: Callable[[], int | None],
    corrupt: list[int],
) -> Recording:
    """Decode everything once; keep the frames if they fit, and count them either way.

    `frames_declared` and `corrupt` are looked at after that: decoding may fill them in.
    """
    held: list[Frames] | None = []
    count, held_bytes = 0, 0
    shape: tuple[int, ...] = ()
    for frame in decode():
        if shape and frame.shape != shape:
            raise UnreadableError(
                f"{path}: frame {count} is {frame.shape[1]} x {frame.shape[0]} while those before "
                f"it are {shape[1]} x {shape[0]}; export the recording with one frame size"
            )
        shape = frame.shape
        count += 1
        held_bytes += frame.nbytes
        if held_bytes > hold_bytes:
            held = None
        if held is not None:
            held.append(frame)
    if count == 0:
        raise UnreadableError(f"{path}: not one frame could be decoded; copy or download it again")
    _check_shape((count, *shape), path)
    frames = np.stack(held) if held is not None else None
    # A second pass (when nothing is held) appends to the same list again: freeze it now.
    return Recording(path, (count, *shape), frames_declared(), tuple(corrupt), frames, decode)


def _read_video(path: Path, hold_bytes: int) -> Recording:
    header: dict[str, int | None] = {}
    corrupt: list[int] = []

    def decode() -> Iterator[Frames]:
        try:
            with av.open(str(path)) as container:
                streams = container.streams.video
                # Without a codec context PyAV crashes the process on decoding (PyAV issue 2344).
                if not streams or getattr(streams[0], "codec_context", None) is None:
                    raise UnreadableError(f"{path}: holds no video that can be decoded")
                header["frames"] = streams[0].frames or None
                yield from _decode_stream(container, streams[0], corrupt)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(
                f"{path}: not readable as {path.suffix[1:].lower()} video ({reason}); "
                "copy or download it again"
            ) from None

    return _collect(path, decode, hold_bytes, lambda: header["frames"], corrupt)


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


def _read_tiff(path: Path, hold_bytes: int) -> Recording:
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            declared = len(series.pages)
            page_shape = tuple(n for n in series.keyframe.shape if n != 1)
            dtype = series.keyframe.dtype
    except (tifffile.TiffFileError, OSError, ValueError, IndexError) as error:
        raise UnreadableError(f"{path}: not readable as TIFF ({error})") from None
    if dtype is None or dtype.kind not in "uif":
        raise UnreadableError(f"{path}: TIFF pixels of type {dtype} are not supported")

    corrupt: list[int] = []

    def pages() -> Iterator[NDArray[Any]]:
        with tifffile.TiffFile(path) as tiff:
            for index, page in enumerate(tiff.series[0].pages):
                try:
                    if page is None:
                        raise ValueError("page is missing")
                    array = page.asarray().squeeze()
                except ValueError as error:
                    if "imagecodecs" in str(error):
                        raise UnreadableError(
                            f"{path}: {error}; install it with: pip install 'stallscan[lab]'"
                        ) from None
                    corrupt.append(index)
                    continue
                # One page may hold a whole stack (ImageJ hyperstacks, OME with interleaved z).
                is_colour = array.ndim == 3 and array.shape[-1] in (3, 4)
                if array.ndim == 2 or is_colour:
                    yield array[..., :3] if is_colour else array
                else:
                    yield from array

    is_colour = len(page_shape) == 3 and page_shape[-1] in (3, 4)
    if len(page_shape) == 3 and not is_colour:
        declared *= page_shape[0]
    scale = _scale_to_8_bits(dtype, pages, is_colour)
    return _collect(path, lambda: map(scale, pages()), hold_bytes, lambda: declared, corrupt)


def _scale_to_8_bits(
    dtype: np.dtype[Any], pages: Callable[[], Iterator[NDArray[Any]]], is_colour: bool
) -> Callable[[NDArray[Any]], Frames]:
    """Choose how the pixels of a stack become uint8, alike for all its frames.

    Colours must keep their meaning, so RGB is divided by its full range (12 bits if it fits).
    Grey levels are stretched from the lowest to the 99.9th percentile, as display software does.
    """
    if dtype == np.uint8:
        return lambda array: np.asarray(array, dtype=np.uint8)
    if is_colour and dtype.kind == "u":
        top = max(int(page.max()) for page in pages())
        low, high = 0.0, 255.0 if top <= 255 else 4095.0 if top <= 4095 else 65535.0
    else:
        spread = [np.nanpercentile(page, (0, 99.9)) for page in pages()]
        low = float(min((s[0] for s in spread), default=0.0))
        high = float(max((s[1] for s in spread), default=1.0))
    gain = 255.0 / max(high - low, 1e-12)

    def scale(array: NDArray[Any]) -> Frames:
        stretched = (np.nan_to_num(array.astype(np.float32)) - low) * gain
        levels: Frames = np.clip(np.rint(stretched), 0, 255).astype(np.uint8)
        return levels

    return scale


def _read_npy(path: Path) -> Recording:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(f"{path}: not readable as npy ({error})") from None
    _check_shape(array.shape, path)
    if array.dtype != np.uint8:
        is_colour = array.ndim == 4
        scale = _scale_to_8_bits(array.dtype, lambda: iter(array), is_colour)
        return _collect(path, lambda: map(scale, array), HOLD_BYTES, lambda: len(array), [])
    return Recording(path, array.shape, len(array), (), array, lambda: iter(array))
