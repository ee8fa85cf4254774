"""From files to clips: one recording, or many in parallel and in order.

`one` is the only way from a file to a clip, in training and in prediction alike. A recording is
decoded once, however many clips are cut from it. One that cannot be used becomes a `Prepared` with
its status and reason, never an exception.
"""

import functools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stallscan import workers
from stallscan.clips import clip as clips
from stallscan.clips import traits
from stallscan.clips.clip import Clip, ClipSettings
from stallscan.errors import RecordingError, TooShortError, UnreadableError
from stallscan.recordings import video
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Recording
from stallscan.vessels.outline import Outline, OutlineSettings, find_outline
from stallscan.words import printable

# Chosen: hundreds of times what a recording takes, and what the slowest network drive gives.
RECORDING_S, SLOWEST_BYTES_S = 600.0, 500_000
# A segment that lies in the plane is in focus for 6 to 12 frames (docs/facts.md 5): fewer show less
# than one pass through it. The shortest recording of the competition has 17.
MIN_FRAMES = 6


class Preprocessing(NamedTuple):
    """How a net is shown a recording.

    Attributes
    ----------
    outline : OutlineSettings
        How its outline is found.
    clip : ClipSettings
        How its clip is cut.
    """

    outline: OutlineSettings
    clip: ClipSettings


@dataclass(frozen=True)
class Prepared:
    """What became of one recording.

    Attributes
    ----------
    source : Source
        The recording.
    status : str
        ``ok``; ``damaged`` (the frames that decode gave a clip), or what keeps a person from
        judging it: ``too_dark``, ``out_of_view``, ``out_of_focus``; or why there is no clip:
        ``unreadable``, ``too_short``, ``no_outline``, ``several_outlines``.
    reason : str
        One sentence, empty if there is nothing to say.
    frames : int or None
        Frames decoded, None if there were none.
    frames_declared : int or None
        Frames by the header.
    clips : tuple of Clip
        One for each view, if the status allows them.
    """

    source: Source
    status: str
    reason: str = ""
    frames: int | None = None
    frames_declared: int | None = None
    clips: tuple[Clip, ...] = ()

    def __post_init__(self) -> None:
        # Reasons name files, and become cells of tables.
        object.__setattr__(self, "reason", printable(self.reason))

    @property
    def clip(self) -> Clip | None:
        """The clip of the first view, if there is one."""
        return self.clips[0] if self.clips else None


def one(source: Source, views: Sequence[Preprocessing]) -> Prepared:
    """Read a recording, find its outline and cut its clips.

    Parameters
    ----------
    source : Source
        The recording.
    views : sequence of View
        At least one. Those that are the same are worked out once.
    """
    recording: Recording | None = None
    try:
        recording = video.read_recording(source.path)
        return cut(source, recording, views)
    except RecordingError as error:
        counted = (len(recording), recording.frames_declared) if recording else (None, None)
        return Prepared(source, error.status, str(error), *counted)
    except MemoryError:
        reason = f"{source.path}: too large for the memory. Crop the recording around the segment"
        return Prepared(source, UnreadableError.status, reason)


def cut(
    source: Source,
    recording: Recording,
    views: Sequence[Preprocessing],
    outline: Outline | None = None,
) -> Prepared:
    """Find the outline of a recording that is read, and cut its clips.

    Parameters
    ----------
    source : Source
        What to call it.
    recording : Recording
        Colour, (T, H, W, 3).
    views : sequence of Preprocessing
        As in `one`.
    outline : Outline, optional
        Where the segment is; if not given, it is found as each view says.

    Raises
    ------
    RecordingError
        If no clip can be made.
    """
    if len(recording) < MIN_FRAMES and recording.is_damaged:
        raise UnreadableError(_damage(recording))
    if len(recording) < MIN_FRAMES:
        raise TooShortError(
            f"{source.path}: has {len(recording)} frame{'s' * (len(recording) > 1)}. At least "
            f"{MIN_FRAMES} are needed to see whether anything moves"
        )
    found: dict[OutlineSettings, Outline] = {}
    made: dict[Preprocessing, Clip] = {}
    for view in views:
        if view.outline not in found:
            found[view.outline] = outline or find_outline(recording, view.outline)
        if view not in made:
            made[view] = clips.make_clip(recording, found[view.outline], view.clip)
    cut_clips = tuple(made[view] for view in views)
    status, reason = traits.gradable(cut_clips[0].traits)
    remark = found[views[0].outline].remark
    reason = "; ".join(filter(None, [reason, recording.note, remark]))
    reason = f"{source.path}: {reason}" if reason else ""
    if recording.is_damaged:
        status, reason = "damaged", _damage(recording)
    return Prepared(source, status, reason, len(recording), recording.frames_declared, cut_clips)


def many(
    sources: Iterable[Source],
    views: Sequence[Preprocessing],
    processes: int | None = None,
) -> Generator[Prepared, None, None]:
    """Make clips in several processes, one thread each, and yield them in order.

    At most four recordings a process are under way or waiting at any time, so memory stays
    bounded. A file on which the decoder's process crashes or hangs is a row like any other.

    Parameters
    ----------
    sources : iterable of Source
        The recordings.
    views : sequence of View
        As in `one`.
    processes : int, optional
        Default: one a core. With 0 the work is done in this process.

    Raises
    ------
    InputError
        If the number of processes makes no sense.
    WorkerError
        If a process cannot be started.
    """
    task = functools.partial(one, views=views)
    return workers.in_order(task, tuple(sources), processes, _lost, _limit_s)


def _lost(source: Source, reason: str) -> Prepared:
    sentence = f"{source.path}: the decoder crashed or hung on this file ({reason})"
    return Prepared(source, "unreadable", f"{sentence}. Export the recording again")


def _limit_s(source: Source) -> float:
    """Give a file time by its size."""
    try:
        return RECORDING_S + source.path.stat().st_size / SLOWEST_BYTES_S
    except OSError:
        return RECORDING_S


def _damage(recording: Recording) -> str:
    decoded, promised = len(recording), recording.frames_promised
    of = f"{promised}" if promised > decoded else f"at least {decoded + len(recording.corrupt)}"
    return (
        f"{recording.path}: only {decoded} of {of} frames can be decoded; "
        "copy or download the file again"
    )
