"""Image stacks and arrays: TIFF in its dialects, and npy."""

import contextlib
import logging
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from stallscan.errors import RecordingError, UnreadableError, install
from stallscan.recordings.colours import (
    IMAGEJ_CHANNELS,
    Array,
    check_colours,
    check_opaque,
    find_channels,
    ome,
    product,
    significant_bits,
)
from stallscan.recordings.levels import scale_of
from stallscan.recordings.limits import LIMITS, Limits
from stallscan.recordings.recording import ArrayDecoder, Recording, collect
from stallscan.words import listed

# Axes that frames may follow each other on: time, depth, and two that tifffile gives to pages of
# unknown order. Channels and positions are none.
_FRAME_AXES = "TZIQ"
# Kinds of tifffile's series that it makes of pages that are alike, for want of a description.
_COUNTED = ("generic", "uniform")


class _Quiet(logging.Filter):
    """Drops what tifffile logs in a thread while that thread reads for us.

    What it would log about a damaged file is raised, or noted as corrupt.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self._thread, "depth", 0)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Drop records within the block. It must not yield to other code."""
        self._thread.depth = getattr(self._thread, "depth", 0) + 1
        try:
            yield
        finally:
            self._thread.depth -= 1


_quiet = _Quiet()
logging.getLogger("tifffile").addFilter(_quiet)


@dataclass(frozen=True)
class _Layout:
    """How the frames of a recording lie in a TIFF.

    Attributes
    ----------
    dtype : dtype
        Of the pixels as stored.
    is_colour : bool
        Whether frames are (H, W, 3) rather than (H, W).
    bits : int or None
        Significant bits of a value, if the file declares them.
    channels : tuple of int or None
        Which of three planes that follow each other are red, green and blue; None if a plane is a
        frame.
    frames : int or None
        Frames that the headers promise, None if the headers are incomplete.
    contiguous : int
        Planes that lie one after another behind the only page; 0 if each page has its own.
    skipped : frozenset of tuple
        Shapes of the pages that are small copies of others.
    note : str
        What is to be said of the order of the frames; empty if nothing is.
    """

    dtype: np.dtype[Any]
    is_colour: bool
    bits: int | None
    channels: tuple[int, ...] | None
    frames: int | None
    contiguous: int
    skipped: frozenset[tuple[int, ...]]
    note: str


def read_tiff(path: Path, hold_bytes: int, limits: Limits = LIMITS) -> Recording:
    """Read every page of a TIFF; pages that are broken are noted as corrupt.

    Raises
    ------
    UnreadableError
        If there is no page that can be read, the pages differ in size or type, the file holds
        something else than the frames of one recording (several positions, channels that are not
        red, green and blue, one of several files), or the recording is beyond the limits.
    """
    try:
        with _quiet(), tifffile.TiffFile(path) as tiff:
            layout = _layout(tiff, path, limits)
    except (RecordingError, MemoryError):
        raise
    # Whatever tifffile's code stumbles over in a damaged file is raised as it comes.
    except Exception as error:  # noqa: BLE001
        raise UnreadableError(
            f"{path}: not readable as TIFF ({error}). Copy or export it again"
        ) from None
    corrupt: list[int] = []

    def frames() -> Iterator[Array]:
        corrupt.clear()
        for frame in _tiff_frames(path, layout, limits, corrupt):
            if frame.dtype.newbyteorder("=") != layout.dtype.newbyteorder("="):
                raise UnreadableError(
                    f"{path}: has pixels of type {layout.dtype} and {frame.dtype}"
                )
            yield frame

    scale = scale_of(path, layout.dtype, frames, is_colour=layout.is_colour, bits=layout.bits)
    decoder = ArrayDecoder(lambda: map(scale, frames()))
    read = collect(path, decoder, hold_bytes, lambda: layout.frames, corrupt)
    return replace(read, note=layout.note)


def _layout(tiff: tifffile.TiffFile, path: Path, limits: Limits) -> _Layout:
    """Find out what the file holds, by its headers.

    Raises
    ------
    UnreadableError
        If it is not the frames of one recording.
    """
    _check_is_whole(tiff, path)
    pages, following = _tiff_pages(tiff, path, limits)
    main, is_joined, skipped = _main_series(tiff, path)
    page = main.keyframe
    shown = [each for each in pages if each.shape not in skipped]
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnreadableError(f"{path}: TIFF pixels of type {page.dtype} are not supported")
    samples = check_colours(page, path)
    dimensions = [] if is_joined else _dimensions(tiff, main)
    channels = find_channels(tiff, main, dimensions, path)
    note = _note_frame_axes(dimensions, path)
    has_palette = page.photometric == PHOTOMETRIC.PALETTE
    planes = product(size for _, size in dimensions)
    shown_planes = len(shown) * page.imagedepth
    # Pages that are alike are counted; a count is declared by other kinds of series.
    is_declared = planes > 1 and (main.kind not in _COUNTED or tiff.is_imagej)
    frames = max(planes, shown_planes) // (3 if channels else 1)
    only_one = len(shown) == 1 and planes > shown_planes and page.is_final and page.nbytes > 0
    end = page.dataoffsets[0] + planes * page.nbytes if only_one else 0
    limits.check_count(path, frames)
    return _Layout(
        dtype=np.dtype(np.uint8) if has_palette else page.dtype,
        is_colour=samples == 3 or channels is not None or has_palette,
        bits=None if has_palette else significant_bits(tiff, page),
        channels=channels,
        frames=frames if is_declared or following == 0 else None,
        contiguous=planes if only_one and (following == 0 or following >= end) else 0,
        skipped=skipped,
        note=note,
    )


def _check_is_whole(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise UnreadableError if the file is one of several that hold a recording together.

    tifffile would read the others along, and take those that are missing as black.
    """
    root = ome(tiff)
    files = {element.text: element.get("FileName", "") for element in root.iterfind(".//{*}UUID")}
    is_root = root.find("{*}BinaryOnly") is None
    if is_root and len(files) < 2:
        return
    own = root.get("UUID")
    others = [name for uuid, name in files.items() if uuid != own and name != path.name]
    missing = [name for name in others if not (path.parent / name).is_file()]
    raise UnreadableError(
        f"{path}: holds only a part of a recording that lies in "
        + (f"{len(files)} files" if is_root else "several files")
        + (f" ({len(missing)} of them missing: {listed(missing)})" if missing else "")
        + ". Save the recording as one file (in Fiji: open it by File > Import > Bio-Formats, then "
        "File > Save As > Tiff)"
    )


def _tiff_pages(tiff: tifffile.TiffFile, path: Path, limits: Limits) -> tuple[list[Any], int]:
    """Give the pages, less the small copies of others, and where the chain of pages breaks.

    Pages rather than series, because a file written page by page has a series for each.

    Returns
    -------
    pages, following
        The pages; and the place in the file of the page that should follow them but cannot be
        read, 0 if they are all, -1 if that place is missing, too.
    """
    pages: dict[int, Any] = {}
    chain: Iterable[Any] = tiff.pages
    for page in chain:
        if page.offset in pages:  # a damaged chain may lead back and never end
            return list(pages.values()), page.offset
        pages[page.offset] = page
        limits.check_frame(path, page.imagelength, page.imagewidth, page.nbytes)
        limits.check_count(path, len(pages))
    shown = [page for page in pages.values() if not page.is_reduced]
    place = tiff.pages.next_page_offset
    if place is None:
        return shown, 0
    tiff.filehandle.seek(place)
    size = tiff.tiff.offsetsize
    pointer = tiff.filehandle.read(size)
    (offset,) = struct.unpack(tiff.tiff.offsetformat, pointer) if len(pointer) == size else (-1,)
    return shown, offset


def _main_series(
    tiff: tifffile.TiffFile, path: Path
) -> tuple[Any, bool, frozenset[tuple[int, ...]]]:
    """Find the series of pages that is the recording.

    Returns
    -------
    series, is_joined, skipped
        The series (of several that are joined, the first of the largest); whether the frames are
        the pages of all series; and the shapes of the pages that are small copies of others.

    Raises
    ------
    UnreadableError
        If the file holds several recordings.
    """
    every = [each for each in tiff.series if not each.keyframe.is_reduced]
    main = max(every, key=lambda series: series.size)
    small = [
        each
        for each in every
        if _planes_in(each) == 1 < _planes_in(main) and _area(each) < _area(main)
    ]
    others = [each for each in every if each is not main and each not in small]
    levels = [level for series in (main, *others) for level in series.levels[1:]]
    skipped = frozenset(each.keyframe.shape for each in (*small, *levels))
    # tifffile's own grouping, of pages alike in compression and so on, tells nothing.
    is_declared = main.kind not in _COUNTED
    pages_apart = all(_planes_in(each) == 1 for each in (main, *others))
    if others and ((is_declared and not pages_apart) or _stage_positions(tiff) > 1):
        names = [each.name or f"series {index}" for index, each in enumerate(every)]
        raise UnreadableError(
            f"{path}: holds {len(every)} recordings or positions ({listed(names)}). "
            "Export each as a file of its own"
        )
    return main, bool(others), skipped


def _planes_in(series: Any) -> int:
    page = series.keyframe
    count: int = series.size // max(_area(series) * page.samplesperpixel, 1)
    return count


def _area(series: Any) -> int:
    return int(series.keyframe.imagelength * series.keyframe.imagewidth)


def _stage_positions(tiff: tifffile.TiffFile) -> int:
    """Count the places in x and y that OME metadata give for the planes."""
    planes = ome(tiff).iterfind(".//{*}Plane")
    return len({(each.get("PositionX"), each.get("PositionY")) for each in planes})


def _dimensions(tiff: tifffile.TiffFile, series: Any) -> list[tuple[str, int]]:
    """Return the axes (and their sizes) beside rows, columns and samples, outermost first."""
    described = tiff.imagej_metadata or {}
    samples = series.keyframe.samplesperpixel
    found = [
        (axis, int(size))
        for axis, size in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS"
    ]
    if described and series.kind != "imagej":  # tifffile found fewer frames than it describes
        keys = {"T": "frames", "Z": "slices"} | ({"C": "channels"} if samples == 1 else {})
        found = [(axis, int(described.get(key, 1))) for axis, key in keys.items()]
        images = int(described.get("images", 1))
        if product(size for _, size in found) < images:
            found = [("I", images)]
    if described:  # tifffile writes frames of which it is not told the axis as channels
        most = 1 if samples > 1 else IMAGEJ_CHANNELS
        found = [("I" if axis == "C" and size > most else axis, size) for axis, size in found]
    return [(axis, size) for axis, size in found if size > 1]


def _note_frame_axes(dimensions: list[tuple[str, int]], path: Path) -> str:
    """Return what is to be said of the order of the frames; empty if they have one axis.

    Raises
    ------
    UnreadableError
        Unless frames follow each other along axes of time and depth.
    """
    axes = [(axis, size) for axis, size in dimensions if axis != "C"]
    listed = " x ".join(
        f"{size} ({tifffile.TIFF.AXES_NAMES.get(axis, axis)})" for axis, size in axes
    )
    if sorted(axis for axis, _ in axes) == ["T", "Z"]:
        return f"its {listed} are read one after another. Save each time as a file of its own"
    if len(axes) > 1 or not all(axis in _FRAME_AXES for axis, _ in axes):
        raise UnreadableError(
            f"{path}: its frames have more than one order: {listed}. "
            "Save one series of frames (all times of one depth, or all depths of one time) as a "
            "file of its own"
        )
    return ""


def _tiff_frames(
    path: Path, layout: _Layout, limits: Limits, corrupt: list[int]
) -> Iterator[Array]:
    """Yield (H, W) or (H, W, 3) as stored, from every page; note broken pages in `corrupt`."""
    with _quiet():
        tiff = tifffile.TiffFile(path)
    with tiff:
        with _quiet():
            pages, following = _tiff_pages(tiff, path, limits)
        shown = [page for page in pages if page.shape not in layout.skipped]
        planes = (
            _contiguous_planes(tiff, shown[0], layout.contiguous, path)
            if layout.contiguous
            else _page_planes(shown, path)
        )
        count = 0
        for index, frame in enumerate(_composed(planes, layout.channels)):
            if frame is None:
                corrupt.append(index)
            else:
                count += 1
                yield frame
        # Unlike the count in a video's header, that of planes without headers is exact. Where the
        # chain of pages is broken, frames are missing, unless they are known to be all.
        all_here = layout.frames is not None and count >= layout.frames
        if (following or layout.contiguous) and not all_here:
            corrupt.append(len(pages))


def _contiguous_planes(
    tiff: tifffile.TiffFile, page: Any, count: int, path: Path
) -> Iterator[Array | None]:
    """Yield the planes of which only the first has a header, as far as the file goes.

    ImageJ writes such files beyond 4 GB, as does tifffile with `truncate`. Of other files written
    at once, the headers of all but the first page are lost if the end is cut off.
    """
    offset = page.dataoffsets[0]
    available = min(count, max(tiff.filehandle.size - offset, 0) // page.nbytes)
    if available:
        dtype = page.dtype.newbyteorder(tiff.byteorder)
        shape = (available, *page.shape)
        stored = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
        for array in stored:
            yield from _planes(array, page, path)


def _page_planes(pages: list[Any], path: Path) -> Iterator[Array | None]:
    """Yield the planes of each page, and None for a page that is broken."""
    for page in pages:
        try:
            with _quiet():
                array = page.asarray(maxworkers=1)
            planes = _planes(array, page, path)
        except (RecordingError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - see read_tiff
            # Some codecs come from Python's own library, of versions that may lack them.
            if isinstance(error, ImportError) or "imagecodecs" in str(error):
                name = getattr(page.compression, "name", page.compression)
                raise UnreadableError(
                    f"{path}: its compression, {name}, needs the package imagecodecs; "
                    f"install it with: {install('imagecodecs')}"
                ) from None
            yield None
            continue
        yield from planes


def _composed(
    planes: Iterator[Array | None], channels: tuple[int, ...] | None
) -> Iterator[Array | None]:
    """Join three planes that follow each other to a colour frame, if they are channels."""
    if channels is None:
        yield from planes
        return
    for three in zip(planes, planes, planes, strict=False):
        known = [plane for channel in channels if (plane := three[channel]) is not None]
        alike = len({plane.shape for plane in known}) == 1
        yield np.stack(known, axis=-1) if len(known) == 3 and alike else None


def _planes(array: Array, page: Any, path: Path) -> Array:
    """Bring an array with the axes ...YX, ...YXS or ...SYX to (n, H, W) or (n, H, W, 3).

    Raises
    ------
    UnreadableError
        If some of the pixels are transparent.
    """
    axes = page.axes
    if page.photometric == PHOTOMETRIC.PALETTE:
        # 16 bits; ImageJ and others fill only the upper 8.
        table = np.moveaxis(np.asarray(page.colormap) >> 8, 0, -1).astype(np.uint8)
        return table[array.reshape(-1, *array.shape[-2:])]
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        array = ~array if array.dtype.kind == "u" else -array
    if "S" not in axes:
        return array.reshape(-1, *array.shape[-2:])
    array = np.moveaxis(array, axes.index("S"), -1)
    shown = check_colours(page, path)
    for sample, kind in enumerate(page.extrasamples, start=shown):
        if kind != tifffile.EXTRASAMPLE.UNSPECIFIED:
            check_opaque(array[..., sample], path)
    array = array.reshape(-1, *array.shape[-3:])[..., :shown]
    return array if shown == 3 else array[..., 0]
