"""A laboratory's raw stack: which planes are its frames, its micrometres, and its grey levels.

What a file leaves open is asked for, never guessed: the voxel size, the channel, and the order of
the frames where there are several times and depths.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan import files
from stallscan.errors import InputError, UnreadableError
from stallscan.recordings import bioformats, doubts, kinds, levels, planes
from stallscan.recordings.limits import LIMITS
from stallscan.recordings.planes import Place, Planes
from stallscan.recordings.recording import Box, Frames
from stallscan.settings import Settings
from stallscan.words import listed, percent, printable

log = logging.getLogger("stallscan")

Um = Annotated[float, Field(gt=0, le=1000)]
# Axes of frames, and the word for each; tifffile assigns I and Q to pages of unknown order.
_WORDS = {"T": "times", "Z": "depths", "I": "frames", "Q": "frames"}


class StackSettings(Settings):
    """How to read a raw stack.

    Attributes
    ----------
    voxel_um : tuple of float or None
        Distance of planes, rows and columns in um; None takes that of the file.
    frame_s : float or None
        Time from frame to frame in s; None takes that of the file.
    channel : str
        Name or number (from 1) of the channel; may be empty if there is only one.
    along : str
        ``depth`` refuses frames that are times at one depth; empty takes both.
    time, depth : int
        In a file with several times and depths: the time whose depths are the frames, or the depth
        whose times are the frames, from 1. 0 if not given.
    black_percentile, white_percentile : float
        Percentiles of all values that become grey levels 0 and 243.
    """

    voxel_um: tuple[Um, Um, Um] | None = None
    frame_s: Annotated[float, Field(gt=0)] | None = None
    channel: str = ""
    along: Literal["", "depth"] = ""
    time: int = Field(default=0, ge=0)
    depth: int = Field(default=0, ge=0)
    black_percentile: float = Field(default=levels.BLACK_PERCENTILE, ge=0, le=100)
    white_percentile: float = Field(default=levels.WHITE_PERCENTILE, ge=0, le=100)

    @model_validator(mode="after")
    def _check(self) -> "StackSettings":
        if self.time and self.depth:
            raise ValueError("time and depth exclude each other")
        if self.black_percentile >= self.white_percentile:
            raise ValueError("the black percentile must be below the white one")
        return self


class Cut(NamedTuple):
    """A part of a stack: a box, and the frames from `first` up to but without `stop`."""

    box: Box
    first: int
    stop: int


@dataclass(frozen=True)
class Stack:
    """The frames of one channel of a raw stack, read when they are needed.

    Attributes
    ----------
    shape : tuple of int
        (T, H, W).
    axis : str
        ``depth`` if each frame is one step deeper, ``time`` if all are at the same depth.
    voxel_um : tuple of float
        Distance of frames in depth (0 along time), of rows and of columns, um.
    frame_s : float or None
        Time from frame to frame in s; None if unknown.
    channel : str
        Name of the channel, or its number if it has no name; empty if there is only one.
    black, white : float
        Values that become grey levels 0 and 255.
    sample_sha256 : str
        Hash of the values from which these were chosen.
    notes : tuple of str
        What a person should know about the stack, in sentences.
    """

    path: Path
    shape: tuple[int, int, int]
    axis: Literal["depth", "time"]
    voxel_um: tuple[float, float, float]
    frame_s: float | None
    channel: str
    black: float
    white: float
    sample_sha256: str
    notes: tuple[str, ...]
    _planes: Planes
    _places: Sequence[Place]  # of the frames

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def name(self) -> str:
        """Name of the file, as tables and pictures can show it."""
        return printable(self.path.name)

    def __getitem__(self, index: slice) -> NDArray[Any]:
        """Read the values of consecutive frames as they are stored, (n, H, W).

        Raises
        ------
        UnreadableError
            If a frame cannot be decoded, or has values that are not numbers.
        """
        values = []
        for number in range(*index.indices(len(self))):
            plane = self._planes.read(self._places[number])
            if plane is None or not np.isfinite(plane).all():
                what = "cannot be decoded" if plane is None else "has values that are not numbers"
                raise UnreadableError(
                    f"{self.path}: frame {number + 1} {what}. Export the stack again"
                )
            values.append(plane)
        return np.stack(values)

    def values(self, index: int) -> NDArray[np.float32] | None:
        """Read the values of a frame as they are stored, float32 (H, W); None if it is damaged.

        NaN and negative infinity count as black, infinity as white.
        """
        plane = self._planes.read(self._places[index])
        if plane is None:
            return None
        values = plane.astype(np.float32)
        return np.nan_to_num(values, nan=self.black, posinf=self.white, neginf=self.black)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the content, and how it is read, in JSON types.

        Without the notes: another version may say the same in other words.
        """
        size, head, tail = files.glance(self.path) if self.path.is_file() else (0, b"", b"")
        return {
            "path": str(self.path.resolve()),
            "content": {"bytes": size, "ends_sha256": files.sha256_of(head + tail)},
            "shape": list(self.shape),
            "axis": self.axis,
            "voxel_um": list(self.voxel_um),
            "frame_s": self.frame_s,
            "channel": self.channel,
            "black": self.black,
            "white": self.white,
            # Which time or depth it is, and which channel, counted from 0.
            "first_plane": dict(self._places[0]),
            # Tells apart what the size and the ends of the file do not.
            "sample_sha256": self.sample_sha256,
        }

    def frame(self, index: int) -> Frames | None:
        """Read a frame, uint8 (H, W); None if it cannot be decoded."""
        plane = self._planes.read(self._places[index])
        return None if plane is None else self._scale(plane)

    def cut(self, cuts: Sequence[Cut]) -> list[tuple[Frames, tuple[int, ...]]]:
        """Read parts of the stack in one pass.

        Parameters
        ----------
        cuts : sequence of Cut
            Boxes inside the frames; all results are in memory at once.

        Returns
        -------
        list
            For each part its frames, uint8 (n, h, w), and the indices of frames that cannot be
            decoded, which are left out.
        """
        parts = [np.zeros((cut.stop - cut.first, *cut.box.shape), np.uint8) for cut in cuts]
        counts = [0] * len(cuts)
        lost: list[list[int]] = [[] for _ in cuts]
        # Few boxes: convert only their pixels to grey levels. Many: each pixel once.
        few = sum(cut.box.shape[0] * cut.box.shape[1] for cut in cuts) < np.prod(self.shape[1:])
        first, stop = min(cut.first for cut in cuts), max(cut.stop for cut in cuts)
        for index in range(first, stop):
            shown = [at for at, cut in enumerate(cuts) if cut.first <= index < cut.stop]
            plane = self._planes.read(self._places[index]) if shown else None
            if plane is not None and not few:
                plane = self._scale(plane)
            for at in shown:
                if plane is None:
                    lost[at].append(index)
                    continue
                part = plane[cuts[at].box.slices]
                parts[at][counts[at]] = self._scale(part) if few else part
                counts[at] += 1
        return [
            (frames[:count], tuple(indices))
            for frames, count, indices in zip(parts, counts, lost, strict=True)
        ]

    @functools.cached_property
    def brightest(self) -> Frames:
        """The brightest grey level of each pixel, uint8 (H, W); the whole stack is read once."""
        brightest = np.zeros(self.shape[1:], np.uint8)
        for index in range(len(self)):
            frame = self.frame(index)
            if frame is not None:
                np.maximum(brightest, frame, out=brightest)
        return brightest

    def grey(self, values: NDArray[Any]) -> Frames:
        """Convert values of the file to grey levels, uint8 of the same shape."""
        return self._scale(values)

    @functools.cached_property
    def _scale(self) -> levels.Scale:
        return levels.linear(self.black, self.white)


@contextlib.contextmanager
def open_stack(path: str | Path, settings: StackSettings | None = None) -> Iterator[Stack]:
    """Open a raw stack; it is closed with the context.

    Parameters
    ----------
    path : str or Path
        A TIFF file in any of its dialects, or with the extra ``bioformats`` CZI, ND2, LIF or
        OME-Zarr.
    settings : StackSettings, optional
        What the file leaves open.

    Raises
    ------
    UnreadableError
        If it cannot be read, is incomplete, or is not a stack of measured values.
    InputError
        If a setting is missing, or does not exist in the file.
    """
    path, settings = Path(path), settings or StackSettings()
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the name of the stack")
    if kinds.kind_of(path) not in ("image", ""):
        raise InputError(kinds.refusal(path, "the file of a raw stack"))
    opener = bioformats.open_file if bioformats.reads(path) else planes.open_tiff
    with opener(path) as found:
        yield _choose(found, settings)


def _choose(found: Planes, settings: StackSettings) -> Stack:
    LIMITS.check_frame(found.path, *found.shape)
    channel_at, channel = _choose_channel(found, settings.channel)
    axis, fixed = _choose_frames(found, settings)
    count = dict(found.dimensions)[axis] if axis else 1
    LIMITS.check_count(found.path, count)
    places = [channel_at | fixed | ({axis: index} if axis else {}) for index in range(count)]
    _check_present(found, places, channel)
    along: Literal["depth", "time"] = "time" if axis == "T" else "depth"
    if settings.along and along != settings.along:
        raise InputError(
            f"{found.path}: its frames are times at one depth, and segments are found in depth. "
            "Give a z-stack; 'stallscan stack --regions' calls vessels that you have outlined"
        )
    voxel_um = _find_voxel(found, settings, along)
    frame_s = settings.frame_s or found.voxels.frame_s
    if along == "time" and frame_s is None:
        raise InputError(
            f"{found.path}: does not say how long a frame takes. Give the seconds from frame to "
            "frame with --frame-s"
        )
    values, small = doubts.sample(found, places)
    notes = doubts.check_values(found, values)
    black, white = levels.stretch(values, settings.black_percentile, settings.white_percentile)
    if white <= black:
        raise UnreadableError(
            f"{found.path}: {percent(settings.white_percentile / 100)} of its values are "
            f"{black:g}, so it shows nothing. Choose another channel, or export the stack again"
        )
    extent_um = voxel_um[0] * count
    notes += doubts.say_unlikely(along, extent_um, small, levels.linear(black, white))
    notes += doubts.say_unlike(voxel_um)
    for note in notes:
        log.warning("%s: %s", found.path, note)
    return Stack(
        path=found.path,
        shape=(count, *found.shape),
        axis=along,
        voxel_um=voxel_um,
        frame_s=frame_s,
        channel=channel,
        black=black,
        white=white,
        sample_sha256=files.sha256_of(values.tobytes()),
        notes=tuple(notes),
        _planes=found,
        _places=places,
    )


def _choose_channel(found: Planes, wanted: str) -> tuple[dict[str, int], str]:
    """Return the indices of a channel, by its name or its number from 1, and its name."""
    sizes = dict(found.dimensions)
    axes = [axis for axis in ("C", "S") if axis in sizes]
    if len(axes) == 2:
        raise UnreadableError(
            f"{found.path}: has {sizes['C']} channels of {sizes['S']} values per pixel. Export one "
            "channel as grey, 16 bits"
        )
    count = sizes[axes[0]] if axes else 1
    names = [*found.voxels.channels[:count]]
    names += [""] * (count - len(names))
    shown = listed(
        [f"{number} ({name})" if name else f"{number}" for number, name in enumerate(names, 1)], 8
    )
    if not axes and not wanted:
        return {}, ""
    if not wanted:
        kind = "values per pixel (colours)" if axes == ["S"] else "channels"
        raise InputError(
            f"{found.path}: has {count} {kind}: {shown}{_say_missing(found)}. Choose the one that "
            "shows the vessels with --channel"
        )
    numbers = [at for at, name in enumerate(names) if name.casefold() == wanted.casefold()]
    if not numbers and wanted.isdecimal() and 1 <= int(wanted) <= count:
        numbers = [int(wanted) - 1]
    if len(numbers) != 1:
        several = "several channels" if numbers else "no channel"
        raise InputError(f"{found.path}: has {several} {wanted}. Choose one of {shown}")
    return dict.fromkeys(axes, numbers[0]), names[numbers[0]] or f"{numbers[0] + 1}"


def _choose_frames(found: Planes, settings: StackSettings) -> tuple[str, dict[str, int]]:
    """Return the axis of the frames, and the index along the other one; empty if there is none."""
    sizes = {axis: size for axis, size in found.dimensions if axis not in "CS"}
    said = " x ".join(f"{size} {_WORDS.get(axis, axis)}" for axis, size in sizes.items())
    if not set(sizes) <= set(_WORDS):
        raise UnreadableError(
            f"{found.path}: holds {said}, more than the depths or times of one field. Export each "
            "field to its own file"
        )
    given = {"T": settings.time, "Z": settings.depth}
    if sorted(sizes) == ["T", "Z"]:
        fixed = next((axis for axis, number in given.items() if number), None)
        if fixed is None:
            raise InputError(
                f"{found.path}: holds {said}. Choose the time whose depths are read with --time "
                f"1 to {sizes['T']}, or the depth whose times are read with --depth 1 to "
                f"{sizes['Z']}"
            )
        if given[fixed] > sizes[fixed]:
            raise InputError(
                f"{found.path}: has only {sizes[fixed]} {_WORDS[fixed]}, not {given[fixed]}. "
                f"Choose one from 1 to {sizes[fixed]}"
            )
        return "Z" if fixed == "T" else "T", {fixed: given[fixed] - 1}
    if len(sizes) > 1:
        raise UnreadableError(
            f"{found.path}: its frames are arranged as {said}, in an unknown order. Export it "
            "again as ImageJ or OME-TIFF"
        )
    if any(given.values()):
        raise InputError(
            f"{found.path}: holds {said or '1 frame'} in a single order, so --time and --depth "
            "have nothing to choose. Leave them out"
        )
    return next(iter(sizes), ""), {}


def _check_present(found: Planes, places: Sequence[Place], channel: str) -> None:
    """Refuse frames in missing files; tifffile would fill in black."""
    lacking = sum(not found.has(place) for place in places)
    if lacking:
        name = f"channel {channel}" if channel else "the stack"
        remedy = (
            "Copy all files of the recording into one folder, with their names unchanged"
            if found.missing
            else "If the acquisition was stopped, save the frames that exist as a stack (in Fiji: "
            "Image > Stacks > Tools > Make Substack)"
        )
        raise UnreadableError(
            f"{found.path}: {lacking} of {len(places)} frames of {name} are missing"
            f"{_say_missing(found)}. {remedy}"
        )
    if found.missing:
        log.warning(
            "%s: the channel that is read (%s) is complete%s",
            found.path,
            channel or "the only one",
            _say_missing(found),
        )
    if len(places) == 1:
        raise UnreadableError(
            f"{found.path}: holds a single frame. Name the file that holds all frames of the stack"
        )


def _say_missing(found: Planes) -> str:
    """Return which files of the stack do not exist, to follow a clause; empty if all do."""
    if not found.missing:
        return ""
    return f"; {len(found.missing)} of its files are missing: {listed(found.missing)}"


def _find_voxel(
    found: Planes, settings: StackSettings, along: Literal["depth", "time"]
) -> tuple[float, float, float]:
    voxels = found.voxels
    if settings.voxel_um is not None:
        z_um, y_um, x_um = settings.voxel_um
        return (z_um if along == "depth" else 0.0), y_um, x_um
    sides = {"rows": voxels.y_um, "columns": voxels.x_um}
    if along == "depth":
        sides = {"planes": voxels.z_um} | sides
    unknown = [name for name, side in sides.items() if side is None]
    if unknown or voxels.y_um is None or voxels.x_um is None:
        raise InputError(
            f"{found.path}: does not state the distance of {', '.join(unknown)} in um. Give the "
            "voxel size that was set in your microscope: --voxel-um PLANES ROWS COLUMNS"
        )
    return (voxels.z_um or 0.0) if along == "depth" else 0.0, voxels.y_um, voxels.x_um
