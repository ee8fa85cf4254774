"""The recording: decoded frames, held in memory or decoded anew, whatever the format."""

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

# Rows and columns that a thumbnail has at least, if the frame has twice as many.
THUMBNAIL_PX = 48
# Pixels handed on at once: 56 frames of 512 x 384 RGB.
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
        """How many rows and columns."""
        return self.row1 - self.row0, self.col1 - self.col0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and its columns."""
        return slice(self.row0, self.row1), slice(self.col0, self.col1)

    def grown(self, px: int, shape: tuple[int, int] | None = None) -> "Box":
        """Add pixels on all sides, with a shape as far as a frame of (H, W) goes."""
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
        """Count its rows and columns from the first ones of another box."""
        row, col = other.row0, other.col0
        return Box(self.row0 - row, self.row1 - row, self.col0 - col, self.col1 - col)

    def is_within(self, other: "Box") -> bool:
        """Whether all its pixels belong to another box."""
        rows = other.row0 <= self.row0 and self.row1 <= other.row1
        return rows and other.col0 <= self.col0 and self.col1 <= other.col1


def whole(shape: tuple[int, ...]) -> Box:
    """Give the box of all pixels of a frame of that shape, (H, W) or (H, W, 3)."""
    return Box(0, shape[0], 0, shape[1])


class Picture(Protocol):
    """A frame in whatever form its decoder leaves it in; an array of pixels is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) for colour, (H, W) for grey."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""


class Decoder(Protocol):
    """What knows how to get at the frames of one recording."""

    def pictures(self) -> Iterator[Picture]:
        """Decode the recording from its beginning; may be called again and again."""

    def cut(self, pictures: Sequence[Any], box: Box) -> Frames:
        """Give the pixels in a box of pictures that it decoded, uint8 (n, h, w, 3) or (n, h, w)."""

    def thin(self, pictures: Sequence[Any], step: int) -> Frames:
        """Give every so many-th pixel of pictures that it decoded; its colour may be off a bit."""

    def coloured(self, pictures: Sequence[Any], least: float) -> Box | None:
        """As `Recording.coloured`, of pictures that it decoded, one at least."""


@dataclass(frozen=True)
class ArrayDecoder:
    """Gets at frames that are arrays.

    Attributes
    ----------
    arrays : callable
        Gives an iterator over the frames, uint8 (H, W, 3) or (H, W), each time it is called.
    """

    arrays: Callable[[], Iterator[Frames]]

    def pictures(self) -> Iterator[Picture]:
        """Give the arrays themselves."""
        return self.arrays()

    def cut(self, pictures: Sequence[Frames], box: Box) -> Frames:
        """Cut the box out of each."""
        return np.stack([picture[box.slices] for picture in pictures])

    def thin(self, pictures: Sequence[Frames], step: int) -> Frames:
        """Slice each array."""
        return np.stack([picture[::step, ::step] for picture in pictures])

    def coloured(self, pictures: Sequence[Frames], least: float) -> Box | None:
        """Name the whole frame: to look for colour here is no faster than to do so later."""
        return whole(pictures[0].shape)


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
    frames_expected : int or None
        Frames that should decode by the packets in the file and its index of them; None where
        nothing is known beside `frames_declared`.
    note : str
        What the reader chose where the file left a choice, a sentence; empty if it left none.
    """

    path: Path
    shape: tuple[int, ...]
    frames_declared: int | None
    corrupt: tuple[int, ...]
    _held: Sequence[Picture] | Frames | None = field(repr=False)
    _decoder: Decoder = field(repr=False)
    frames_expected: int | None = None
    note: str = ""
    # The last part that was asked for and came in one chunk: who finds the outline and who cuts
    # the clip want about the same one.
    _part: list[tuple[Box, Frames]] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_damaged(self) -> bool:
        """Whether frames are missing beyond the one that headers may miscount."""
        return bool(self.corrupt) or self.frames_promised - len(self) > 1

    @property
    def frames_promised(self) -> int:
        """Frames that the file should give; 0 if it promises none."""
        expected = self.frames_expected
        return (self.frames_declared or 0) if expected is None else expected

    @property
    def frames(self) -> Frames:
        """All frames at once, uint8 of `shape`; decodes again if they were too many to hold."""
        return np.concatenate(list(self.chunks()))

    def chunks(self, box: Box | None = None) -> Iterator[Frames]:
        """Yield the frames in order, some at a time, in bounded memory.

        Parameters
        ----------
        box : Box, optional
            The part of the frame that is wanted; all of it if not given. The smaller, the faster.

        Yields
        ------
        ndarray
            uint8 (n, h, w, 3) RGB or (n, h, w), n at least 1.
        """
        box = box or whole(self.shape[1:])
        for known, pixels in self._part:
            if box.is_within(known):
                yield pixels[:, *box.seen_from(known).slices]
                return
        frame_bytes = box.shape[0] * box.shape[1] * (3 if len(self.shape) == 4 else 1)
        pictures = self._decoder.pictures() if self._held is None else iter(self._held)
        while some := list(itertools.islice(pictures, max(CHUNK_BYTES // frame_bytes, 1))):
            pixels = self._decoder.cut(some, box)
            if len(some) == len(self):
                self._part[:] = [(box, pixels)]
            yield pixels

    def thumbnails(self, *indices: int) -> Frames:
        """Return frames with as few pixels as show what colours they have.

        Parameters
        ----------
        *indices : int
            Numbers of the frames, from 0, none smaller than the one before.

        Returns
        -------
        ndarray
            uint8 (n, h, w, 3) RGB or (n, h, w): every so many-th pixel of every so many-th row,
            in about its colour.
        """
        step = max(min(self.shape[1:3]) // THUMBNAIL_PX, 1)
        if self._held is not None:
            return self._decoder.thin([self._held[index] for index in indices], step)
        # One pass, as far as need be.
        decoded = enumerate(itertools.islice(self._decoder.pictures(), indices[-1] + 1))
        kept = {index: picture for index, picture in decoded if index in indices}
        return self._decoder.thin([kept[index] for index in indices], step)

    def coloured(self, least: float, every: int = 1) -> Box | None:
        """Say where colour can be, without a look at every pixel where the format allows it.

        Parameters
        ----------
        least : float
            Grey levels, above 0.
        every : int
            Look at the first frame and every so many-th from it.

        Returns
        -------
        Box or None
            Outside of it, in none of these frames red exceeds blue by `least` or more; None if
            that is so everywhere. It may be larger than need be.
        """
        if self._held is None:  # to decode once more costs more than to look at whole frames
            return whole(self.shape[1:])
        return self._decoder.coloured(list(self._held[::every]), least)


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
    check_shape(frames.shape, path)
    if frames.dtype != np.uint8:
        raise UnreadableError(f"{path}: frames are {frames.dtype}, expected uint8")
    return of_frames(path, frames)


def of_frames(path: Path, frames: Frames, frames_declared: int | None = None) -> Recording:
    """Make a recording of an array that `from_array` would take, be it in memory or mapped."""
    decoder = ArrayDecoder(lambda: iter(frames))
    return Recording(path, frames.shape, frames_declared, (), frames, decoder)


def check_shape(shape: tuple[int, ...], path: Path) -> None:
    """Raise UnreadableError unless `shape` is (T, H, W) or (T, H, W, 3) with nothing empty."""
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
        raise UnreadableError(
            f"{path}: the frames have shape {shape}, expected (frames, rows, columns) or "
            "(frames, rows, columns, 3)"
        )


def collect(
    path: Path,
    decoder: Decoder,
    hold_bytes: int,
    frames_declared: Callable[[], int | None],
    corrupt: list[int],
) -> Recording:
    """Decode everything once; keep the frames if they fit, and count them either way.

    Parameters
    ----------
    path : Path
        For messages.
    decoder : Decoder
        Of the recording.
    hold_bytes : int
        Recordings with more bytes than this, as they are decoded, are not kept.
    frames_declared : callable
        Gives what the header says; called after decoding, which may find it out.
    corrupt : list of int
        What could not be decoded; looked at after decoding, which fills it.

    Raises
    ------
    UnreadableError
        If there is no frame, the frames differ in size, or they are beyond the limits.
    """
    held: list[Picture] | None = []
    count, held_bytes = 0, 0
    shape: tuple[int, ...] = ()
    for picture in decoder.pictures():
        if shape and picture.shape != shape:
            raise UnreadableError(
                f"{path}: frame {count} is {picture.shape[1]} x {picture.shape[0]} while those "
                f"before it are {shape[1]} x {shape[0]}; export the recording with one frame size"
            )
        shape = picture.shape
        count += 1
        LIMITS.check_frame(path, *shape[:2])
        LIMITS.check_count(path, count)
        held_bytes += picture.nbytes
        if held_bytes > hold_bytes:
            held = None
        if held is not None:
            held.append(picture)
    if count == 0:
        raise UnreadableError(f"{path}: not one frame could be decoded; copy or download it again")
    check_shape((count, *shape), path)
    # A second pass (when nothing is held) appends to the same list again: freeze it now.
    return Recording(path, (count, *shape), frames_declared(), tuple(corrupt), held, decoder)


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
