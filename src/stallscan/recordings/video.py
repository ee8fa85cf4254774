"""Reading recordings of any format, and decoding video.

PyAV decodes video in one thread. Frames are counted by decoding them, because headers may miscount
(docs/facts.md 5: by one frame in the competition's files). Rotation for display is ignored, because
neither a stall nor an outline depends on it. Frames that an edit list hides are not read.
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
from stallscan.recordings.colours import check_opaque
from stallscan.recordings.find import ARRAY_SUFFIXES, SUFFIXES
from stallscan.recordings.kinds import STACK_SUFFIXES, VIDEO_SUFFIXES
from stallscan.recordings.limits import LIMITS
from stallscan.recordings.recording import Box, Frames, Picture, Recording, collect, whole
from stallscan.recordings.stack import read_tiff

VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"  # FFmpeg's demuxers

# Tracks that accompany a recording: a cover, chapter thumbnails.
PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails
# MPEG-4 encodes a dropped frame as a packet of at most this size, which yields no frame.
DROPPED_BYTES = {"mpeg4": 7}
# Codecs with packets for reference only, which yield no frame.
HIDING = frozenset({"vp8"})

# 8-bit 4:2:0 layouts (one chroma pixel for 2 x 2 luma pixels), limited and full range.
PLANAR = frozenset({"yuv420p", "yuvj420p"})

# 910 frames of 512 x 384 in 4:2:0, or 455 in RGB: the longest recording of the competition (434)
# fits.
HOLD_BYTES = 256 * 2**20


def read_recording(path: str | Path, hold_bytes: int = HOLD_BYTES) -> Recording:
    """Read a recording: mp4, avi, mov, mkv, webm, gif, tiff or npy.

    Parameters
    ----------
    path : str or Path
        The file.
    hold_bytes : int
        Do not hold recordings with more decoded bytes than this in memory; `Recording.chunks` then
        decodes the file again each time it is called.

    Raises
    ------
    UnreadableError
        If the file is missing, empty, or nothing in it can be decoded as frames of one size.
    """
    path = Path(path)
    try:
        status = path.stat()
        # Opening a pipe would block until somebody writes to it.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{path}: is not a regular file. Name a video, stack or array")
        with path.open("rb"):
            pass
    except PermissionError:
        raise UnreadableError(
            f"{path}: permission denied. Change the permissions of the file or its folder"
        ) from None
    except OSError as error:
        what = "the target of this link" if path.is_symlink() else "the file"
        raise UnreadableError(
            f"{path}: {what} cannot be opened ({error.strerror}). "
            "Check that it exists, or copy it again"
        ) from None
    if status.st_size == 0:
        raise UnreadableError(f"{path}: the file is empty. Copy or download it again")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return _read_video(path, hold_bytes)
    if suffix in STACK_SUFFIXES:
        return read_tiff(path, hold_bytes)
    if suffix in ARRAY_SUFFIXES:
        return read_npy(path, hold_bytes)
    problem = f"files of type {suffix} are not supported" if suffix else "the file has no suffix"
    raise UnreadableError(
        f"{path}: {problem}. Save the recording as one of {', '.join(sorted(SUFFIXES))}"
    )


def _read_video(path: Path, hold_bytes: int) -> Recording:
    decoder = _VideoDecoder(path)
    recording = collect(path, decoder, hold_bytes, lambda: decoder.frames_declared, decoder.corrupt)
    return replace(recording, frames_expected=decoder.frames_expected, note=decoder.note)


class _Planes(NamedTuple):
    """A 4:2:0 frame as the codec decodes it.

    Attributes
    ----------
    planes : tuple of ndarray
        Views of the decoder's memory, uint8: Y (H, W), U and V (H / 2, W / 2).
    layout : tuple
        Pixel format, colour space and range, which determine the conversion to RGB.
    """

    planes: tuple[Frames, ...]
    layout: tuple[Any, ...]

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "_Planes":
        """Return views of the planes of a frame, which keep its memory alive."""
        layout = (frame.format.name, frame.colorspace, frame.color_range)
        return cls(tuple(map(_view, frame.planes)), layout)

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.planes[0].shape, 3

    @property
    def nbytes(self) -> int:
        return sum(plane.size for plane in self.planes)


def _view(plane: Any) -> Frames:
    """Return a view of a plane without its padding, uint8 (H, W)."""
    size = (plane.height, plane.width)
    return np.ndarray(size, np.uint8, buffer=plane, strides=(plane.line_size, 1))


class _VideoDecoder:
    """Decodes the frames of a video file.

    Frames in 4:2:0 stay as decoded, half the size of RGB, until a box of them is requested:
    converting a whole frame to RGB takes a fifth of the time of decoding it, and a clip shows only
    a tenth of the frame.

    Attributes
    ----------
    frames_declared : int or None
        Frames according to the header; set when decoding begins.
    frames_expected : int or None
        Frames according to the packets in the file and its index; set when decoding ends. None for
        codecs with packets that yield no frame.
    corrupt : list of int
        Indices of packets that failed to decode, so far.
    note : str
        `Recording.note`: the track that is read, frames hidden by an edit list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames_declared: int | None = None
        self.frames_expected: int | None = None
        self.corrupt: list[int] = []
        self.note = ""
        self._packets = 0

    def pictures(self) -> Iterator[Picture]:
        """Decode from the beginning; raise UnreadableError if the file is not a valid video."""
        path = self.path
        try:
            containers.refuse_bomb(path)
            with _opened(path) as container:
                stream, self.note = _best_track(path, container)
                # The decoder allocates whole frames, even for a tiny file.
                LIMITS.check_frame(path, stream.height, stream.width)
                self.frames_declared = stream.frames or None
                for frame in self._decode(container, stream):
                    yield _picture(frame, path)
                hidden = (self.frames_declared or 0) - (self.frames_expected or 0)
                if "mp4" in container.format.name and hidden > 1:
                    trimmed = f"its edit list hides {hidden} of {self.frames_declared} frames"
                    self.note = "; ".join(filter(None, [self.note, trimmed]))
                if not containers.is_whole(path, container.format.name) and not self.corrupt:
                    self.corrupt.append(self._packets)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableError(
                f"{path}: not readable as {path.suffix[1:].lower()} video ({reason}). "
                "Copy or download it again"
            ) from None

    def _decode(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Yield the frames; add the indices of packets that fail to decode to `corrupt`."""
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        # "explode" keeps the decoder from filling in broken slices with invented pixels.
        # "max_pixels" also limits packets whose frame size differs from the header's.
        limit = str(LIMITS.frame_px)
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": limit}
        codec = stream.codec_context.name
        # Other formats only index some packets, as seek points.
        has_index = container.format.name == "avi" or "mp4" in container.format.name
        indexed = len(stream.index_entries)
        packets = container.demux(stream)
        index = unseen = 0  # packets that are not empty, and how many of them yield no frame
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                # The file ends in the middle of a packet; keep what was decoded so far.
                self.corrupt.append(index)
                break
            if packet is None:
                break
            decoded: list[Any] = []
            try:
                if packet.is_corrupt:  # incomplete
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
            # The index of a fragmented file grows while it is read.
            index = max(index, indexed, len(stream.index_entries))
        if codec not in HIDING:
            self.frames_expected = index - unseen

    def cut(self, pictures: Sequence[Any], box: Box) -> Frames:
        """Return the pixels of a box as RGB, uint8 (n, h, w, 3).

        They equal those of converted whole frames: each pixel depends only on its own luma and on
        the chroma pixel that it shares with its neighbours.
        """
        batches = [
            _to_rgb(list(alike), box)
            if layout
            else np.stack([picture[box.slices] for picture in alike])
            for layout, alike in itertools.groupby(
                pictures, lambda picture: getattr(picture, "layout", None)
            )
        ]
        return batches[0] if len(batches) == 1 else np.concatenate(batches)

    def thin(self, pictures: Sequence[Any], step: int) -> Frames:
        """Return every `step`-th chroma pixel of every `step`-th row as RGB, uint8 (n, h, w, 3).

        Colours are approximate: the conversion assumes full range and BT.601.
        """
        thumbnails = []
        for picture in pictures:
            if isinstance(picture, _Planes):
                luma, blue, red = picture.planes
                fine, coarse = (slice(None, None, each) for each in (2 * step, step))
                sampled = luma[fine, fine], red[coarse, coarse], blue[coarse, coarse]
                thumbnails.append(cv2.cvtColor(cv2.merge(sampled), cv2.COLOR_YCrCb2RGB))
            else:
                thumbnails.append(picture[::step, ::step])
        return np.stack(thumbnails)

    def coloured(self, pictures: Sequence[Any], least: float) -> Box | None:
        """Return a box as `Recording.coloured` does, by the chroma planes alone."""
        if not all(isinstance(picture, _Planes) for picture in pictures):
            return whole(pictures[0].shape)
        # For each chroma pixel the lowest U (blue) and the highest V (red) of all frames.
        _, blue, red = (plane.copy() for plane in pictures[0].planes)  # (H / 2, W / 2) uint8
        for picture in pictures[1:]:
            cv2.min(picture.planes[1], blue, dst=blue)
            cv2.max(picture.planes[2], red, dst=red)
        # Rounding may add two levels.
        is_coloured = _RED_AT_MOST[red] - _BLUE_AT_LEAST[blue] >= least - 2
        rows, cols = (np.flatnonzero(is_coloured.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        top, left = int(rows[0]), int(cols[0])
        return Box(2 * top, 2 * int(rows[-1]) + 2, 2 * left, 2 * int(cols[-1]) + 2)


def _picture(frame: av.VideoFrame, path: Path) -> Picture:
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    if even and frame.format.name in PLANAR:
        return _Planes.of(frame)
    if not any(component.is_alpha for component in frame.format.components):
        return _as_rgb(frame)
    rgba = np.asarray(frame.to_ndarray(format="rgba", threads=1), dtype=np.uint8)
    # Programs that do not use opacity may write 0 throughout.
    if rgba[..., 3].any():
        check_opaque(rgba[..., 3], path)
    return np.ascontiguousarray(rgba[..., :3])


def _to_rgb(pictures: Sequence[_Planes], box: Box) -> Frames:
    """Convert a box of frames of the same layout to RGB: uint8 (n, h, w, 3).

    All boxes are stacked on top of each other and converted as one frame, which is faster.
    """
    # Grow the box to even rows and columns, so that it contains whole chroma pixels.
    top, left = box.row0 // 2 * 2, box.col0 // 2 * 2
    height, width = -(-(box.row1 - top) // 2) * 2, -(-(box.col1 - left) // 2) * 2
    name, colorspace, color_range = pictures[0].layout
    tall = av.VideoFrame(width, height * len(pictures), name)
    tall.colorspace, tall.color_range = colorspace, color_range
    for index, step in enumerate((1, 2, 2)):  # Y, U, V
        rows = slice(top // step, (top + height) // step)
        cols = slice(left // step, (left + width) // step)
        boxes = [picture.planes[index][rows, cols] for picture in pictures]
        np.concatenate(boxes, out=_view(tall.planes[index]))
    rgb = _as_rgb(tall).reshape(-1, height, width, 3)
    row, col = box.row0 - top, box.col0 - left
    return rgb[:, row : row + box.row1 - box.row0, col : col + box.col1 - box.col0]


def _as_rgb(frame: av.VideoFrame) -> Frames:
    """Convert a whole frame to RGB, uint8 (H, W, 3)."""
    # By default, PyAV uses a thread per core.
    return np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)


def _bounds(up: float, down: float) -> NDArray[np.float32]:
    """Return the 256 levels of a chroma plane times `up` above 128 (no colour), `down` below."""
    levels = np.arange(256, dtype=np.float32) - 128
    return np.where(levels > 0, up * levels, down * levels).astype(np.float32)


# R - B = a (V - 128) - b (U - 128), with a from 1.402 to 1.794 and b from 1.772 to 2.142 in all of
# ITU-R BT.601, 709, 2020 and SMPTE 240M, full and limited range. So this difference is an upper
# bound; clipping R and B to 0..255 only brings them closer together.
_RED_AT_MOST = _bounds(1.8, 1.4)
_BLUE_AT_LEAST = _bounds(1.77, 2.15)


def _opened(path: Path) -> Any:
    # "file:", because FFmpeg takes a name with a colon for a URL. The whitelist, because it takes
    # a text that lists other files (ffconcat, HLS) for a video.
    return av.open(f"file:{path}", container_options={"format_whitelist": VIDEO_FORMATS})


class _Track(NamedTuple):
    """A video track: its stream, number of packets, and pixels per frame."""

    stream: Any
    packets: int
    area: int

    def __str__(self) -> str:
        size = f"{self.stream.codec_context.width} x {self.stream.codec_context.height}"
        return f"track {self.stream.index + 1} with {self.packets} frames of {size}"


def _best_track(path: Path, container: Any) -> tuple[Any, str]:
    """Return the video track with the most frames, and a note if others were ignored.

    Cover images, and single frames beside longer tracks, do not count.

    Raises
    ------
    UnreadableError
        If there is no track, or another one has frames as large or larger.
    """
    # PyAV crashes when it decodes a stream without a codec context (PyAV issue 2344).
    streams = [
        stream
        for stream in container.streams.video
        if getattr(stream, "codec_context", None) is not None and not stream.disposition & PICTURE
    ]
    if not streams:
        raise UnreadableError(
            f"{path}: holds no video track that can be decoded. Export the recording again"
        )
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
            f"{path}: holds several video tracks, and it is unclear which one is the recording "
            f"({'; '.join(map(str, tracks))}). Export this track to its own file"
        )
    note = "" if len(tracks) == 1 else f"of its {len(tracks)} video tracks, only {best} is read"
    return best.stream, note
