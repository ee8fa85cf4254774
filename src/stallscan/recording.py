"""The recording: decoded frames, held in memory or decoded anew, whatever the format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import UnreadableError

# Frames handed on at once when a recording is too large to be held: about 19 MB at 512 x 384.
CHUNK_FRAMES = 32

Frames = NDArray[np.uint8]


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
    check_shape(frames.shape, path)
    if frames.dtype != np.uint8:
        raise UnreadableError(f"{path}: frames are {frames.dtype}, expected uint8")
    return Recording(path, frames.shape, None, (), frames, lambda: iter(frames))


def check_shape(shape: tuple[int, ...], path: Path) -> None:
    """Raise UnreadableError unless `shape` is (T, H, W) or (T, H, W, 3) with nothing empty."""
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
        raise UnreadableError(
            f"{path}: the frames have shape {shape}, expected (frames, rows, columns) or "
            "(frames, rows, columns, 3)"
        )


def collect(
    path: Path,
    decode: Callable[[], Iterator[Frames]],
    hold_bytes: int,
    frames_declared: Callable[[], int | None],
    corrupt: list[int],
) -> Recording:
    """Decode everything once; keep the frames if they fit, and count them either way.

    Parameters
    ----------
    path : Path
        For messages.
    decode : callable
        Gives an iterator over the frames, uint8 (H, W, 3) or (H, W), each time it is called.
    hold_bytes : int
        Recordings with more bytes than this are not kept.
    frames_declared : callable
        Gives what the header says; called after decoding, which may find it out.
    corrupt : list of int
        What could not be decoded; looked at after decoding, which fills it.

    Raises
    ------
    UnreadableError
        If there is no frame, or the frames differ in size.
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
    check_shape((count, *shape), path)
    frames = np.stack(held) if held is not None else None
    # A second pass (when nothing is held) appends to the same list again: freeze it now.
    return Recording(path, (count, *shape), frames_declared(), tuple(corrupt), frames, decode)
