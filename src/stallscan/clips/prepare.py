"""From files to clips: one recording, or many in parallel and in order.

Training and prediction both use `one` to get from a file to its clips. A recording is decoded once,
however many clips are cut from it. If it cannot be used, the result is a `Prepared` with a status
and a reason, never an exception.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stallscan import workers
from stallscan.clips import traits
from stallscan.clips.clip import Clip, ClipSettings, make_clip
from stallscan.errors import RecordingError, TooShortError, UnreadableError
from stallscan.recordings import video
from stallscan.recordings.find import Source
from stallscan.recordings.limits import LIMITS, MEMORY_BYTES, within_memory
from stallscan.recordings.recording import Recording
from stallscan.vessels.outline import Outline, OutlineSettings, find_outline
from stallscan.words import printable

# A segment that lies in the plane is in focus for 6 to 12 frames (docs/facts.md 5), so fewer frames
# show less than one pass through it. The shortest recording of the competition has 17.
MIN_FRAMES = 6


class Preprocessing(NamedTuple):
    """How to find a recording's outline and how to cut its clip."""

    outline: OutlineSettings
    clip: ClipSettings


@dataclass(frozen=True)
class Prepared:
    """The result of preparing one recording.

    With clips the status is ``ok``; ``damaged`` if only some frames could be decoded; or
    ``too_dark``, ``out_of_view`` or ``out_of_focus`` if even a person could not judge the
    recording. Without clips it is ``unreadable``, ``too_short``, ``no_outline`` or
    ``several_outlines``.
    """

    source: Source
    status: str
    reason: str = ""  # what is wrong and what to do
    frames: int | None = None  # decoded; None if there were none
    frames_declared: int | None = None  # according to the file's header
    clips: tuple[Clip, ...] = ()  # one per view, or none

    def __post_init__(self) -> None:
        # Reasons contain file names, which may have any characters, and become cells of tables.
        object.__setattr__(self, "reason", printable(self.reason))

    @property
    def clip(self) -> Clip | None:
        """The clip of the first view; None without clips."""
        return self.clips[0] if self.clips else None


def one(source: Source, views: Sequence[Preprocessing]) -> Prepared:
    """Read a recording, find its outline and cut a clip for each view (at least one)."""
    recording: Recording | None = None
    try:
        with within_memory(source.path):
            recording = video.read_recording(source.path)
            return cut(source, recording, views)
    except RecordingError as error:
        counts = (len(recording), recording.frames_declared) if recording else (None, None)
        return Prepared(source, error.status, str(error), *counts)


def cut(
    source: Source,
    recording: Recording,
    views: Sequence[Preprocessing],
    outline: Outline | None = None,
) -> Prepared:
    """Find the outline of a recording (T, H, W, 3) and cut a clip for each view.

    Parameters
    ----------
    outline : Outline, optional
        Where the segment is. If omitted, it is found with the settings of each view.

    Raises
    ------
    RecordingError
        If no clip can be cut.
    """
    if len(recording) < MIN_FRAMES and recording.is_damaged:
        raise UnreadableError(_damage(recording))
    if len(recording) < MIN_FRAMES:
        raise TooShortError(
            f"{source.path}: has {len(recording)} frame{'s' * (len(recording) > 1)}. At least "
            f"{MIN_FRAMES} are needed to see whether cells move"
        )
    outlines: dict[OutlineSettings, Outline] = {}
    clip_of: dict[Preprocessing, Clip] = {}
    for view in views:
        if view.outline not in outlines:
            outlines[view.outline] = outline or find_outline(recording, view.outline)
        if view not in clip_of:
            clip_of[view] = make_clip(recording, outlines[view.outline], view.clip)
    cut_clips = tuple(clip_of[view] for view in views)
    status, reason = traits.gradable(cut_clips[0].traits)
    remark = outlines[views[0].outline].remark
    # The reason comes last, because it ends with what to do.
    reason = "; ".join(filter(None, [recording.note, remark, reason]))
    reason = f"{source.path}: {reason}" if reason else ""
    if recording.is_damaged:
        status, reason = "damaged", _damage(recording)
    return Prepared(source, status, reason, len(recording), recording.frames_declared, cut_clips)


def many(
    sources: Iterable[Source],
    views: Sequence[Preprocessing],
    processes: int | None = None,
) -> Generator[Prepared, None, None]:
    """Prepare recordings in several single-threaded processes and yield the results in order.

    At most four recordings per process are in progress or waiting, so memory stays bounded. A file
    that makes the decoder crash or hang yields an ``unreadable`` result. The default is one process
    per core; with 0 the work is done in this process.

    Raises
    ------
    InputError
        If the number of processes is invalid.
    WorkerError
        If a process cannot be started.
    """
    task = functools.partial(one, views=views)
    return workers.in_order(task, tuple(sources), processes, _lost, _limit_s, MEMORY_BYTES)


def keep(
    views: Sequence[Preprocessing], processes: int | None = None
) -> contextlib.AbstractContextManager[
    Callable[[Sequence[Source]], Generator[Prepared, None, None]]
]:
    """Keep decoding processes for several batches: the context yields what `many` is for each.

    Errors as for `many`. Batches are prepared one after the other.
    """
    task = functools.partial(one, views=views)
    return workers.kept(task, processes, _lost, _limit_s, MEMORY_BYTES)


def _lost(source: Source, reason: str) -> Prepared:
    message = f"{source.path}: the decoder crashed or hung on this file ({reason})"
    return Prepared(source, "unreadable", f"{message}. Export the recording again")


def _limit_s(source: Source) -> float:
    return LIMITS.seconds_for(source.path)


def _damage(recording: Recording) -> str:
    decoded, promised = len(recording), recording.frames_promised
    total = f"{promised}" if promised > decoded else f"at least {decoded + len(recording.corrupt)}"
    return (
        f"{recording.path}: only {decoded} of {total} frames can be decoded. Copy or download the "
        "file again"
    )
