"""The recording: frames of any format, held in memory or decoded again when needed."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings.limits import LIMITS

# The shorter side of a thumbnail has at least this many pixels (half as many with subsampled
# chroma), unless the frame has fewer.
THUMBNAIL_PX = 48
# Size of a chunk: 56 frames of 512 x 384 RGB.
CHUNK_BYTES = 32 * 2**20

Frames = NDArray[np.uint8]


class Box(NamedTuple):
    """A rectangle of pixels, half-open, rows before columns."""

    row0: int
    row1: int
    col0: int
    col1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.row1 - self.row0, self.col1 - self.col0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rows and columns in an array (H, W, ...)."""
        return slice(self.row0, self.row1), slice(self.col0, self.col1)

    def grown(self, px: int, shape: tuple[int, int] | None = None) -> "Box":
        """Return the box with `px` more pixels on each side, clipped to a frame of `shape`."""
        grown = Box(self.row0 - px, self.row1 + px, self.col0 - px, self.col1 + px)
        if shape is None:
            return grown
        return Box(
            max(grown.row0, 0),
            min(grown.row1, shape[0]),
            max(grown.col0, 0),
            min(grown.col1, shape[1]),
        )

    def seen_from(self, other: "Box") -> "Box":
        """Return the box in coordinates relative to the first row and column of another."""
        row, col = other.row0, other.col0
        return Box(self.row0 - row, self.row1 - row, self.col0 - col, self.col1 - col)

    def is_within(self, other: "Box") -> bool:
        """Return whether another box contains all pixels of this one."""
        rows = other.row0 <= self.row0 and self.row1 <= other.row1
        return rows and other.col0 <= self.col0 and self.col1 <= other.col1


def whole(shape: tuple[int, ...]) -> Box:
    """Return the box of a whole frame of shape (H, W) or (H, W, 3)."""
    return Box(0, shape[0], 0, shape[1])


class Picture(Protocol):
    """A frame in the native form of its decoder, for instance an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) RGB or (H, W) grey."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""


class Decoder(Protocol):
    """Decodes one recording and converts its pictures to pixels."""

    def pictures(self) -> Iterator[Picture]:
        """Decode the recording from the beginning; may be called repeatedly."""

    def cut(self, pictures: Sequence[Any], box: Box) -> Frames:
        """Return the pixels of a box, uint8 (n, h, w, 3) or (n, h, w)."""

    def thin(self, pictures: Sequence[Any], step: int) -> Frames:
        """Return every `step`-th pixel of every `step`-th row; colours may be approximate."""

    def coloured(self, pictures: Sequence[Any], least: float) -> Box | None:
        """Return a box as `Recording.coloured` does; expects at least one picture."""


@dataclass(frozen=True)
class ArrayDecoder:
    """A decoder of arrays: each call of `arrays` iterates over uint8 (H, W, 3) or (H, W)."""

    arrays: Callable[[], Iterator[Frames]]

    def pictures(self) -> Iterator[Picture]:
        """Iterate over the arrays."""
        return self.arrays()

    def cut(self, pictures: Sequence[Frames], box: Box) -> Frames:
        """Return the pixels of the box."""
        return np.stack([picture[box.slices] for picture in pictures])

    def thin(self, pictures: Sequence[Frames], step: int) -> Frames:
        """Return every `step`-th pixel of every `step`-th row."""
        return np.stack([picture[::step, ::step] for picture in pictures])

    def coloured(self, pictures: Sequence[Frames], least: float) -> Box | None:
        """Return the whole frame: searching arrays for colour here would save no time later."""
        return whole(pictures[0].shape)


@dataclass(frozen=True)
class Recording:
    """The decoded frames of one video or stack.

    Attributes
    ----------
    shape : tuple of int
        (T, H, W, 3) RGB or (T, H, W) grey; T counts the frames that can be decoded.
    frames_declared : int or None
        Frames according to the header; None if the format does not declare them.
    corrupt : tuple of int
        Indices in the file of the packets or pages that failed to decode; their frames are not
        among the T.
    frames_expected : int or None
        Frames according to the packets in the file and their index; None if there is nothing but
        `frames_declared`.
    note : str
        A choice that the reader made where the file was ambiguous, as a clause; else empty.
    axis : str
        ``depth`` if each frame is one step deeper, ``time`` if all are at the same depth; empty if
        the file does not say.
    voxel_um : tuple of float or None
        Distance of frames in depth, of rows and of columns in um; None if unknown.
    frame_s : float or None
        Time from frame to frame in s; None if unknown.
    """

    path: Path
    shape: tuple[int, ...]
    frames_declared: int | None
    corrupt: tuple[int, ...]
    _held: Sequence[Picture] | Frames | None = field(repr=False)
    _decoder: Decoder = field(repr=False)
    frames_expected: int | None = None
    note: str = ""
    axis: str = ""
    voxel_um: tuple[float, float, float] | None = None
    frame_s: float | None = None
    # The last box that was read in a single chunk: finding the outline and cutting the clip ask
    # for almost the same pixels. A list of at most one, because the class is frozen.
    _cached: list[tuple[Box, Frames]] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_damaged(self) -> bool:
        """Whether frames are missing; headers may miscount by one."""
        return bool(self.corrupt) or self.frames_promised - len(self) > 1

    @property
    def frames_promised(self) -> int:
        """Number of frames that the file should have; 0 if unknown."""
        expected = self.frames_expected
        return (self.frames_declared or 0) if expected is None else expected

    @property
    def frames(self) -> Frames:
        """All frames, uint8 of `shape`; decoded again unless they are held in memory."""
        return np.concatenate(list(self.chunks()))

    def chunks(self, box: Box | None = None) -> Iterator[Frames]:
        """Yield the frames in order, in chunks of bounded size.

        Parameters
        ----------
        box : Box, optional
            Restrict the frames to this box, which is faster; default: whole frames.

        Yields
        ------
        ndarray
            uint8 (n, h, w, 3) RGB or (n, h, w), n at least 1.
        """
        box = box or whole(self.shape[1:])
        for cached, pixels in self._cached:
            if box.is_within(cached):
                yield pixels[:, *box.seen_from(cached).slices]
                return
        frame_bytes = box.shape[0] * box.shape[1] * (3 if len(self.shape) == 4 else 1)
        pictures = self._decoder.pictures() if self._held is None else iter(self._held)
        while batch := list(itertools.islice(pictures, max(CHUNK_BYTES // frame_bytes, 1))):
            pixels = self._decoder.cut(batch, box)
            if len(batch) == len(self):
                self._cached[:] = [(box, pixels)]
            yield pixels

    def thumbnails(self, *indices: int) -> Frames:
        """Return frames with just enough pixels to judge their colours.

        Parameters
        ----------
        *indices : int
            Frames, in ascending order.

        Returns
        -------
        ndarray
            uint8 (n, h, w, 3) RGB or (n, h, w); colours may be approximate.
        """
        step = max(min(self.shape[1:3]) // THUMBNAIL_PX, 1)
        if self._held is not None:
            return self._decoder.thin([self._held[index] for index in indices], step)
        # One pass, no further than the last frame.
        decoded = enumerate(itertools.islice(self._decoder.pictures(), indices[-1] + 1))
        kept = {index: picture for index, picture in decoded if index in indices}
        return self._decoder.thin([kept[index] for index in indices], step)

    def coloured(self, least: float, every: int = 1) -> Box | None:
        """Return a box that contains all colour, cheaply if the format allows it.

        Parameters
        ----------
        least : float
            Red minus blue of a coloured pixel in grey levels, above 0.
        every : int
            Consider every `every`-th frame, starting with the first.

        Returns
        -------
        Box or None
            Outside of it, red exceeds blue by less than `least` in all of these frames. It may be
            larger than necessary. None if there is no colour anywhere.
        """
        if self._held is None:  # decoding again costs more than the smaller box saves
            return whole(self.shape[1:])
        return self._decoder.coloured(list(self._held[::every]), least)


def from_array(frames: Frames, path: str | Path = "<array>") -> Recording:
    """Return a recording of frames in memory, uint8 (T, H, W, 3) RGB or (T, H, W), T at least 1.

    `path` is its name in messages.

    Raises
    ------
    UnreadableError
        If shape or type are different.
    """
    path = Path(path)
    check_shape(frames.shape, path)
    if frames.dtype != np.uint8:
        raise UnreadableError(f"{path}: the frames are {frames.dtype}. Convert them to uint8")
    return of_frames(path, frames)


def of_frames(path: Path, frames: Frames, frames_declared: int | None = None) -> Recording:
    """Return a recording of a valid array of frames, in memory or memory-mapped."""
    decoder = ArrayDecoder(lambda: iter(frames))
    return Recording(path, frames.shape, frames_declared, (), frames, decoder)


def check_shape(shape: tuple[int, ...], path: Path) -> None:
    """Raise UnreadableError unless `shape` is (T, H, W) or (T, H, W, 3) without a 0."""
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
        raise UnreadableError(
            f"{path}: the array has shape {shape}. Arrange it as (frames, rows, columns) or "
            "(frames, rows, columns, 3), with at least one frame, row and column"
        )


def collect(
    path: Path,
    decoder: Decoder,
    hold_bytes: int,
    frames_declared: Callable[[], int | None],
    corrupt: list[int],
) -> Recording:
    """Decode a recording once, to count its frames and to hold them if they fit in memory.

    Parameters
    ----------
    hold_bytes : int
        Do not hold recordings with more decoded bytes than this.
    frames_declared : callable
        Returns `Recording.frames_declared`; called after decoding, which may set it.
    corrupt : list of int
        `Recording.corrupt`; read after decoding, which fills it.

    Raises
    ------
    UnreadableError
        If there is no frame, the frames differ in size, or they exceed the limits.
    """
    held: list[Picture] | None = []
    count, held_bytes = 0, 0
    shape: tuple[int, ...] = ()
    check_time = LIMITS.clock(path)
    for picture in decoder.pictures():
        if shape and picture.shape != shape:
            raise UnreadableError(
                f"{path}: frame {count} is {_say_shape(picture.shape)}, earlier frames are "
                f"{_say_shape(shape)}. Export the recording with one frame size, and all frames in "
                "colour"
            )
        shape = picture.shape
        count += 1
        LIMITS.check_frame(path, *shape[:2])
        LIMITS.check_count(path, count, shape[0] * shape[1])
        check_time()
        held_bytes += picture.nbytes
        if held_bytes > hold_bytes:
            held = None
        if held is not None:
            held.append(picture)
    if count == 0:
        raise UnreadableError(f"{path}: no frame can be decoded. Copy or download it again")
    check_shape((count, *shape), path)
    # Copy `corrupt` now: if nothing is held, each later pass fills the same list again.
    return Recording(path, (count, *shape), frames_declared(), tuple(corrupt), held, decoder)


def _say_shape(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} {'in colour' if len(shape) == 3 else 'in grey'}"


def to_grey(frames: Frames) -> Frames:
    """Return the BT.601 luma of frames, uint8 (T, H, W, 3) -> (T, H, W); grey frames stay as is."""
    if frames.ndim == 3:
        return frames
    count, height, width, _ = frames.shape
    # OpenCV takes a single image: stack the frames on top of each other.
    tall = cv2.cvtColor(frames.reshape(count * height, width, 3), cv2.COLOR_RGB2GRAY)
    return np.asarray(tall, dtype=np.uint8).reshape(count, height, width)
