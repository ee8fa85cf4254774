"""The clip on each card of a report: a small looping video of the outlined region.

Clips are made in separate processes, because a file may crash the decoder. This module imports
little besides the decoder, so that these processes start quickly.
"""

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stallscan import cores, workers
from stallscan.clips.clip import paint_out
from stallscan.errors import NoOutlineError, RecordingError, SeveralOutlinesError, StoreError
from stallscan.recordings import encode, video
from stallscan.recordings.limits import MEMORY_BYTES, within_memory
from stallscan.recordings.recording import Box, Frames, Recording, to_grey
from stallscan.report import evidence, stored
from stallscan.report.stored import Shown, Stored
from stallscan.vessels import outline
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.outline import Outline
from stallscan.words import without_path

# The longer side is scaled down to this. Smaller clips are enlarged by the browser, because more
# pixels in the file would add no information.
CLIP_SIDE_PX = 320
# At this x264 quality, dark blood cells stay distinct and a clip takes about 30 kB.
CLIP_CRF = 28
CLIP_PRESET = "veryfast"
CLIP_KEYFRAME_INTERVAL = 60
# The length of the longest competition recording (docs/facts.md 4). Longer recordings are thinned
# to every n-th frame.
CLIP_FRAMES = 434
# Several recordings are decoded in parallel, so each may keep less in memory than the default of
# `video.read_recording`.
HOLD_BYTES = 192 * 2**20
MOST_PROCESSES = 4
# The poster is seen for a moment only, or beside the evidence picture when nothing plays.
POSTER_SIDE_PX = 160
POSTER_QUALITY = 60
# The evidence picture is drawn from the region scaled down to this side.
EVIDENCE_SIDE_PX = 128
# A ninth of the size of the PNG file, and no difference to be seen.
EVIDENCE_QUALITY = 80


@dataclass(frozen=True)
class Clip:
    """The video of a card with a note."""

    video: bytes = b""  # MP4 file, empty if the recording cannot be shown
    poster: bytes = b""  # WebP file, shown before the video plays
    evidence: bytes = b""  # WebP file of the evidence picture, empty without a single outline
    looked: bytes = b""  # WebP file of where the net looked, if that was asked for
    note: str = ""


def make_clips(
    items: Sequence[Shown],
    margin_px: int,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Generator[Clip, None, None]:
    """Run `make_clip` on each item in parallel, and yield the clips in order.

    A file that crashes the decoder gets an empty clip with the reason.

    Parameters
    ----------
    items : sequence of Path, Predicted or Stored
        Recordings, and clips of a store.
    margin_px : int
        Pixels to show around the outline.
    processes : int, optional
        Number of processes. 0 works in this process; the default is one per core, at most
        `MOST_PROCESSES`.
    progress : callable
        Called with the number of finished clips and the total.
    """
    if processes is None:
        processes = min(cores.count_cores(), MOST_PROCESSES)
    progress(0, len(items))
    task = functools.partial(make_clip, margin_px=margin_px)
    # After Ctrl-C, closing the generator stops its processes.
    clips = workers.in_order(task, items, processes, _crashed, memory_bytes=MEMORY_BYTES)
    with contextlib.closing(clips) as results:
        for done, clip in enumerate(results, 1):
            yield clip
            progress(done, len(items))


def _crashed(_item: Shown, reason: str) -> Clip:
    return Clip(note=note_crash(reason))


def note_crash(reason: str) -> str:
    """Return the note for a file that crashed the decoder."""
    return f"The decoder crashed or hung on this file ({reason}). Export it again."


def note_step(note: str, step: int) -> str:
    """Return a note that also says which frames are shown."""
    return f"{note} One frame in {step} is shown.".strip() if step > 1 else note


def make_clip(item: Shown, margin_px: int) -> Clip:
    """Encode the outlined region plus a margin, or the whole field if there is no single outline.

    A clip of a store is shown as it was prepared. If the recording or the store cannot be read, or
    the recording was replaced since its prediction, the clip has no video and its note says so.
    """
    if isinstance(item, Stored):
        return _clip_of_store(item)
    try:
        path = stored.path_of(item)
        with within_memory(path):
            recording = video.read_recording(path, hold_bytes=HOLD_BYTES)
            found = find_outline(recording)
            box, note = find_region(recording, found, margin_px)
            step = find_step(recording)
            frames = list(_shrink(_thin(recording, box, step)))
            picture = b""
            if found is not None:
                grey = read_grey(recording, found.box, step, found)
                mask = found.mask[found.box.slices]
                picture = as_webp(_draw_evidence(grey, mask), EVIDENCE_QUALITY)
    except RecordingError as error:
        return Clip(note=without_path(str(error), item.name))
    return _encode(frames, picture, note, step)


def _clip_of_store(item: Stored) -> Clip:
    """Encode a prepared clip; its evidence picture needs a mask, which not all stores have."""
    try:
        grey, mask, step = read_stored(item)
    except StoreError as error:
        return Clip(note=note_unreadable(error))
    picture = b"" if mask is None else as_webp(draw_masked(grey, mask), EVIDENCE_QUALITY)
    return _encode(list(_shrink([grey])), picture, item.note, step)


def note_unreadable(error: StoreError) -> str:
    """Return the note for a clip of a store that cannot be read."""
    return f"The prepared clip cannot be read: {error}"


def read_stored(item: Stored) -> tuple[Frames, Mask | None, int]:
    """Read a clip of a store, thinned: uint8 (T, h, w), bool (h, w), and the step in frames."""
    grey, mask = stored.read(item)
    step = math.ceil(len(grey) / CLIP_FRAMES)
    return grey[::step], mask, step


def draw_masked(grey: Frames, mask: Mask) -> evidence.Colours:
    """Draw the evidence picture of a masked region, (T, h, w) and (h, w): uint8 (H, W, 3) BGR."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inner = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _draw_evidence(grey[:, *inner], mask[inner])


def _encode(frames: list[Frames], picture: bytes, note: str, step: int) -> Clip:
    note = note_step(note, step)
    middle = next(_shrink([frames[len(frames) // 2][None]], POSTER_SIDE_PX))
    # OpenCV wants BGR.
    poster = as_webp(middle[..., ::-1] if middle.ndim == 3 else middle, POSTER_QUALITY)
    return Clip(_as_video(frames), poster, picture, note=note)


def find_outline(recording: Recording) -> Outline | None:
    """Find the only outline; None if there is none, or several."""
    try:
        return outline.find_outline(recording)
    except (NoOutlineError, SeveralOutlinesError):
        return None


def find_region(recording: Recording, found: Outline | None, margin_px: int) -> tuple[Box, str]:
    """Return the box to show and a note for the card."""
    height, width = recording.shape[1:3]
    if found is None:
        return Box(0, height, 0, width), "The whole field is shown."
    return found.box.grown(margin_px, (height, width)), ""


def find_step(recording: Recording) -> int:
    """Return the step in frames that thins a recording to at most `CLIP_FRAMES`."""
    return math.ceil(len(recording) / CLIP_FRAMES)


def read_grey(recording: Recording, box: Box, step: int, found: Outline | None) -> Frames:
    """Read every `step`-th frame in a box, with the outline painted out: uint8 (T, h, w)."""
    contour = None if found is None else found.contour[box.slices]
    frames = []
    for chunk in _thin(recording, box, step):
        grey = to_grey(np.ascontiguousarray(chunk))
        frames.append(grey if contour is None else paint_out(grey, contour))
    return np.concatenate(frames)


def draw_evidence(grey: Frames, found: Outline, box: Box) -> bytes:
    """Draw the evidence picture of an outlined region, as a PNG file.

    Parameters
    ----------
    grey : ndarray
        From `read_grey`.
    found : Outline
        The outline.
    box : Box
        Where `grey` lies; it contains the outline's box.
    """
    inner, mask = found.box, found.mask[found.box.slices]
    top, left = inner.row0 - box.row0, inner.col0 - box.col0
    height, width = mask.shape
    picture = _draw_evidence(grey[:, top : top + height, left : left + width], mask)
    _, encoded = cv2.imencode(".png", picture)
    return encoded.tobytes()


def _draw_evidence(grey: Frames, mask: Mask) -> evidence.Colours:
    """Draw the evidence picture of a region, (T, h, w) and (h, w), scaled down."""
    height, width = mask.shape
    scale = min(1.0, EVIDENCE_SIDE_PX / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))  # OpenCV: width first
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in grey]
    small_mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if not small_mask.any():  # narrower than the step between the samples
        small_mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    return evidence.draw(np.stack(small), small_mask)


def _thin(recording: Recording, box: Box, step: int) -> Iterator[Frames]:
    """Yield every `step`-th frame in a box, in chunks that have at least one."""
    position = 0  # of the chunk's first frame in the recording
    for chunk in recording.chunks(box):  # uint8 (T, H, W, 3) or (T, H, W)
        # Skip to the next multiple of `step`, so that the chunk length does not matter.
        thinned = chunk[-position % step :: step]
        if len(thinned):
            yield thinned
        position += len(chunk)


def _shrink(chunks: Iterable[Frames], side_px: int = CLIP_SIDE_PX) -> Iterator[Frames]:
    """Yield the frames of chunks scaled down to a longer side, and padded to even sides."""
    for chunk in chunks:  # uint8 (T, H, W, 3) or (T, H, W)
        height, width = chunk.shape[1:3]
        scale = min(1.0, side_px / max(height, width))
        size = (max(round(width * scale), 1), max(round(height * scale), 1))  # OpenCV: width first
        for frame in chunk:
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
            # H.264 with 4:2:0 chroma needs even sides.
            padding = [(0, side % 2) for side in small.shape[:2]] + [(0, 0)] * (small.ndim - 2)
            yield np.asarray(np.pad(small, padding, mode="edge"), dtype=np.uint8)


def _as_video(frames: list[Frames]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        encode.write_video(
            path,
            frames,
            crf=CLIP_CRF,
            keyframe_interval=CLIP_KEYFRAME_INTERVAL,
            preset=CLIP_PRESET,
        )
        return path.read_bytes()


def as_webp(picture: Frames, quality: int) -> bytes:
    """Encode a picture, uint8 (h, w) or (h, w, 3) BGR, as a WebP file; `quality` is 1..100."""
    _, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return encoded.tobytes()
