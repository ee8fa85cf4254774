"""Recordings: decoding them whole, and writing the competition's H.264.

Video is decoded by PyAV with one thread; frames are counted by decoding them, because headers may
miscount (docs/facts.md 5: by one frame in the competition's files). Pixels are taken as they are
stored: a file's wish to be shown rotated is not followed, because neither a stall nor an outline
depends on it. Of a file that was trimmed by an edit list the frames are read that players show.
"""

import itertools
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import cv2
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings import containers
from stallscan.recordings.array import read_npy
from stallscan.recordings.find import ARRAY_SUFFIXES, STACK_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES
from stallscan.recordings.limits import LIMITS
from stallscan.recordings.recording import Box, Frames, Picture, Recording, collect, whole
from stallscan.recordings.stack import read_tiff

VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"

# Tracks that accompany a recording: a cover, thumbnails of its parts.
PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails
# MPEG-4 marks a frame that was dropped by so small a packet, which gives no frame.
DROPPED_BYTES = {"mpeg4": 7}
# Codecs with packets that are for reference only and never shown.
HIDING = frozenset({"vp8"})

# Layouts of 8 bits with a chroma pixel for two rows and columns, limited and full range.
PLANAR = frozenset({"yuv420p", "yuvj420p"})

# 910 frames of 512 x 384 as the codec leaves them, or 455 of RGB: the longest recording of the
# competition (434) fits.
HOLD_BYTES = 256 * 2**20


def read_recording(path: str | Path, hold_bytes: int = HOLD_BYTES) -> Recording:
    """Decode a recording: mp4, avi, mov, mkv, webm, gif, tiff or npy.

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
        found = path.stat()
        # To open a pipe would wait for its other end.
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError(f"{path}: is not a file")
        with path.open("rb"):
            pass
    except PermissionError:
        raise UnreadableError(
            f"{path}: may not be read. Change the permissions of the file or its folder"
        ) from None
    except OSError as error:
        what = "is a link, and its target" if path.is_symlink() else "the file"
        raise UnreadableError(f"{path}: {what} cannot be opened ({error.strerror})") from None
    if found.st_size == 0:
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


def _read_video(path: Path, hold_bytes: int) -> Recording:
    decoder = _VideoDecoder(path)
    read_recording = collect(
        path, decoder, hold_bytes, lambda: decoder.frames_declared, decoder.corrupt
    )
    return replace(read_recording, frames_expected=decoder.frames_expected, note=decoder.note)


class _Planes(NamedTuple):
    """A frame as the codec leaves it: full luma, and a chroma pixel for two rows and columns.

    Attributes
    ----------
    parts : tuple of ndarray
        Luma, blue and red difference, uint8, as they lie in the decoder's memory.
    layout : tuple
        What the conversion to RGB follows from.
    """

    parts: tuple[Frames, ...]
    layout: tuple[Any, ...]

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "_Planes":
        """Look into a frame, whose memory stays as long as this does."""
        layout = (frame.format.name, frame.colorspace, frame.color_range)
        return cls(tuple(map(_pixels, frame.planes)), layout)

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.parts[0].shape, 3

    @property
    def nbytes(self) -> int:
        return sum(part.size for part in self.parts)


def _pixels(plane: Any) -> Frames:
    """Look at a plane without its padding: uint8 (H, W)."""
    size = (plane.height, plane.width)
    return np.ndarray(size, np.uint8, buffer=plane, strides=(plane.line_size, 1))


class _VideoDecoder:
    """Gets at the frames of a video file.

    Frames of the usual layout stay as the codec leaves them, half the size of RGB, until a part of
    them is asked for: to convert the colours of a whole frame costs a fifth of its decoding, and
    a clip shows a tenth of it.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    frames_declared : int or None
        Frames by the header, once decoding has begun.
    frames_expected : int or None
        Frames that the packets in the file and its index promise, once decoding has ended; None
        for codecs in which a packet need not give a frame.
    corrupt : list of int
        Packets that gave no frame for an error, as far as was decoded.
    note : str
        Which of several video tracks is read; empty if there is only one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames_declared: int | None = None
        self.frames_expected: int | None = None
        self.corrupt: list[int] = []
        self.note = ""
        self._packets = 0

    def pictures(self) -> Iterator[Picture]:
        """Decode from the beginning, with one thread.

        Raises
        ------
        UnreadableError
            If the file cannot be read as a video.
        """
        path = self.path
        try:
            with _opened(path) as container:
                stream, self.note = _best_track(path, container)
                # The decoder takes memory for whole frames, however small the file.
                LIMITS.check_frame(path, stream.height, stream.width)
                self.frames_declared = stream.frames or None
                yield from map(_picture, self._decode(container, stream))
                hidden = (self.frames_declared or 0) - (self.frames_expected or 0)
                if "mp4" in container.format.name and hidden > 1:
                    hides = f"its edit list hides {hidden} of {self.frames_declared} frames"
                    self.note = "; ".join(filter(None, [self.note, hides]))
                if not containers.is_whole(path, container.format.name) and not self.corrupt:
                    self.corrupt.append(self._packets)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(
                f"{path}: not readable as {path.suffix[1:].lower()} video ({reason}); "
                "copy or download it again"
            ) from None

    def _decode(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Yield frames; packets with errors are noted and give none, empty ones are passed over."""
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        # Without this the decoder hides broken slices behind pixels of its own invention. Packets
        # may declare another frame size than the header does: that is limited, too.
        limit = str(LIMITS.frame_px)
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": limit}
        codec = stream.codec_context.name
        # In other formats this is an index of some packets, to jump to.
        has_index = container.format.name == "avi" or "mp4" in container.format.name
        promised = len(stream.index_entries)
        packets = container.demux(stream)
        index = unseen = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                # The file ends in the middle of a packet: what was decoded so far counts.
                self.corrupt.append(index)
                break
            if packet is None:
                break
            decoded: list[Any] = []
            try:
                if packet.is_corrupt:  # it is not all there
                    self.corrupt.append(index)
                else:
                    decoded = packet.decode()
            except av.error.FFmpegError:
                self.corrupt.append(index)
            for frame in decoded:
                if frame.is_corrupt:
                    self.corrupt.append(index)
                else:
                    yield frame
            if packet.size:
                index += 1
                unseen += packet.is_discard or packet.size <= DROPPED_BYTES.get(codec, 0)
        self._packets = index
        if has_index:
            # Of a fragmented file the index grows while it is read.
            index = max(index, promised, len(stream.index_entries))
        if codec not in HIDING:
            self.frames_expected = index - unseen

    def cut(self, pictures: Sequence[Any], box: Box) -> Frames:
        """Give the pixels in a box as RGB, uint8 (n, h, w, 3).

        They equal those of the whole frames converted: each pixel depends on its own luma and on
        the one chroma pixel that it shares with its neighbours.
        """
        parts = [
            _to_rgb(list(alike), box)
            if layout
            else np.stack([picture[box.slices] for picture in alike])
            for layout, alike in itertools.groupby(
                pictures, lambda picture: getattr(picture, "layout", None)
            )
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def thin(self, pictures: Sequence[Any], step: int) -> Frames:
        """Give every so many-th pixel as RGB, uint8 (n, h, w, 3).

        One for a chroma pixel at least, and converted as if all were of full range and BT.601.
        """
        few = []
        for picture in pictures:
            if isinstance(picture, _Planes):
                luma, blue, red = picture.parts
                fine, coarse = (slice(None, None, each) for each in (2 * step, step))
                parts = luma[fine, fine], red[coarse, coarse], blue[coarse, coarse]
                few.append(cv2.cvtColor(cv2.merge(parts), cv2.COLOR_YCrCb2RGB))
            else:
                few.append(picture[::step, ::step])
        return np.stack(few)

    def coloured(self, pictures: Sequence[Any], least: float) -> Box | None:
        """Look at the chroma of all these frames at once; see `Recording.coloured`."""
        if not all(isinstance(picture, _Planes) for picture in pictures):
            return whole(pictures[0].shape)
        # Of each chroma pixel the lowest blue and the highest red difference in any frame.
        _, blue, red = (part.copy() for part in pictures[0].parts)
        for picture in pictures[1:]:
            cv2.min(picture.parts[1], blue, dst=blue)
            cv2.max(picture.parts[2], red, dst=red)
        # Rounding may add a level or two.
        found = _RED_AT_MOST[red] - _BLUE_AT_LEAST[blue] >= least - 2
        rows, cols = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        top, left = int(rows[0]), int(cols[0])
        return Box(2 * top, 2 * int(rows[-1]) + 2, 2 * left, 2 * int(cols[-1]) + 2)


def _picture(frame: av.VideoFrame) -> Picture:
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    return _Planes.of(frame) if even and frame.format.name in PLANAR else _as_rgb(frame)


def _to_rgb(pictures: Sequence[_Planes], box: Box) -> Frames:
    """Convert the box of frames of one layout, all at once, as one tall frame."""
    # From even to even, so that chroma pixels are not divided.
    top, left = box.row0 // 2 * 2, box.col0 // 2 * 2
    height, width = -(-(box.row1 - top) // 2) * 2, -(-(box.col1 - left) // 2) * 2
    name, colorspace, color_range = pictures[0].layout
    tall = av.VideoFrame(width, height * len(pictures), name)
    tall.colorspace, tall.color_range = colorspace, color_range
    for index, step in enumerate((1, 2, 2)):
        rows = slice(top // step, (top + height) // step)
        cols = slice(left // step, (left + width) // step)
        pieces = [picture.parts[index][rows, cols] for picture in pictures]
        np.concatenate(pieces, out=_pixels(tall.planes[index]))
    rgb = _as_rgb(tall).reshape(-1, height, width, 3)
    row, col = box.row0 - top, box.col0 - left
    return rgb[:, row : row + box.row1 - box.row0, col : col + box.col1 - box.col0]


def _as_rgb(frame: av.VideoFrame) -> Frames:
    """Convert all of a frame: uint8 (H, W, 3)."""
    # PyAV would else take a thread for each core.
    return np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)


def _bounds(up: float, down: float) -> NDArray[np.float32]:
    """Multiply the 256 levels of a chroma plane, which are 128 where there is no colour."""
    levels = np.arange(256, dtype=np.float32) - 128
    return np.where(levels > 0, up * levels, down * levels).astype(np.float32)


# R - B = a (V - 128) - b (U - 128), with a from 1.402 to 1.794 and b from 1.772 to 2.142 in all of
# ITU-R BT.601, 709, 2020 and SMPTE 240M, full range and limited. Cutting both off to 0..255 brings
# them nearer together.
_RED_AT_MOST = _bounds(1.8, 1.4)
_BLUE_AT_LEAST = _bounds(1.77, 2.15)


def _opened(path: Path) -> Any:
    # FFmpeg takes a name with a colon for an address, and a text that lists other files (ffconcat,
    # HLS) for a video.
    return av.open(f"file:{path}", container_options={"format_whitelist": VIDEO_FORMATS})


class _Track(NamedTuple):
    """A video track: its stream, its packets and the pixels of a frame."""

    stream: Any
    packets: int
    area: int

    def __str__(self) -> str:
        size = f"{self.stream.codec_context.width} x {self.stream.codec_context.height}"
        return f"number {self.stream.index + 1} with {self.packets} frames of {size}"


def _best_track(path: Path, container: Any) -> tuple[Any, str]:
    """Choose the video track that is the recording, and say which one where there are several.

    Cover pictures, and tracks of a single frame beside longer ones, are none. Of the others the
    one is taken that no other exceeds in frames or in pixels of a frame.

    Raises
    ------
    UnreadableError
        If there is none, or two may be meant.
    """
    # Without a codec context PyAV crashes the process on decoding (PyAV issue 2344).
    streams = [
        stream
        for stream in container.streams.video
        if getattr(stream, "codec_context", None) is not None and not stream.disposition & PICTURE
    ]
    if not streams:
        raise UnreadableError(f"{path}: holds no video that can be decoded")
    if len(streams) == 1:
        return streams[0], ""
    counts = Counter[int]()
    with _opened(path) as other:
        for packet in other.demux([other.streams[stream.index] for stream in streams]):
            counts[packet.stream.index] += packet.size > 0
    tracks = [
        _Track(
            stream,
            counts[stream.index],
            stream.codec_context.width * stream.codec_context.height,
        )
        for stream in streams
    ]
    tracks = [track for track in tracks if track.packets > 1] or tracks
    best = max(tracks, key=lambda track: track[1:])
    if any(track.area >= best.area for track in tracks if track is not best):
        raise UnreadableError(
            f"{path}: holds several video tracks ({'; '.join(map(str, tracks))}), and more than "
            "one may be the recording. Export the one that is meant"
        )
    note = "" if len(tracks) == 1 else f"of {len(tracks)} video tracks {best} is read"
    return best.stream, note
