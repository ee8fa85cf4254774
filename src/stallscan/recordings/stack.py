"""Recordings from TIFF stacks, in the dialects of ImageJ, OME and tifffile."""

import contextlib
import importlib.util
import logging
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

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

# Axes along which frames may follow each other: time, depth, and the two that tifffile assigns to
# pages of unknown order.
_FRAME_AXES = "TZIQ"
# Kinds of series that tifffile forms by grouping similar pages, if the file describes no series.
_COUNTED = ("generic", "uniform")
# Compressions that tifffile expands by itself, and by how much they expand at most.
_ZIPPED, _MOST_EXPANSION = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE), 1032
_EXPANDED_BYTES = 2**20  # at a time


class _Quiet(logging.Filter):
    """Drops the log records of tifffile from threads that are reading a recording.

    We raise errors about damaged files ourselves, or count their pages as corrupt.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self._thread, "depth", 0)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Drop records within the block, which must not yield to a caller."""
        self._thread.depth = getattr(self._thread, "depth", 0) + 1
        try:
            yield
        finally:
            self._thread.depth -= 1


_quiet = _Quiet()
logging.getLogger("tifffile").addFilter(_quiet)


@dataclass(frozen=True)
class _Layout:
    """How the frames of a recording are arranged in a TIFF file.

    Attributes
    ----------
    dtype : dtype
        Type of the stored pixels.
    is_colour : bool
        Whether frames are (H, W, 3) rather than (H, W).
    bits : int or None
        Significant bits per value, if the file declares them.
    channels : tuple of int or None
        Indices of red, green and blue in each group of three planes; None if each plane is a frame.
    frames : int or None
        Frames declared by the headers; None if the headers are incomplete.
    contiguous : int
        Planes stored one after another behind a single page header; 0 if each page has a header.
    skipped : frozenset of tuple
        Shapes of pages that are thumbnails of others.
    note : str
        Remark on the order of the frames; may be empty.
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
    """Read the frames of a TIFF file; pages that cannot be decoded count as corrupt.

    Raises
    ------
    UnreadableError
        If no page can be decoded, pages differ in size or type, the file is not one complete
        recording (several positions, channels other than red, green and blue, one of several
        files), or it exceeds the limits.
    """
    try:
        with _quiet(), tifffile.TiffFile(path) as tiff:
            layout = _layout(tiff, path, limits)
    except (RecordingError, MemoryError):
        raise
    # tifffile can raise almost anything on a damaged file.
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
                    f"{path}: has pixels of type {layout.dtype} and {frame.dtype}. "
                    "Export all frames with the same pixel type"
                )
            yield frame

    scale = scale_of(path, layout.dtype, frames, is_colour=layout.is_colour, bits=layout.bits)
    decoder = ArrayDecoder(lambda: map(scale, frames()))
    read = collect(path, decoder, hold_bytes, lambda: layout.frames, corrupt)
    return replace(read, note=layout.note)


def _layout(tiff: tifffile.TiffFile, path: Path, limits: Limits) -> _Layout:
    """Read the headers; raise UnreadableError unless they describe one recording."""
    _check_is_whole(tiff, path)
    pages, next_page = _tiff_pages(tiff, path, limits)
    main, is_joined, skipped = _main_series(tiff, path)
    page = main.keyframe
    shown = [each for each in pages if each.shape not in skipped]
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnreadableError(
            f"{path}: pixels of type {page.dtype} are not supported. "
            "Export the recording with 8 or 16 bits per value"
        )
    samples = check_colours(page, path)
    dimensions = [] if is_joined else _dimensions(tiff, main)
    channels = find_channels(tiff, main, dimensions, path)
    note = _note_frame_axes(dimensions, path)
    has_palette = page.photometric == PHOTOMETRIC.PALETTE
    planes = product(size for _, size in dimensions)
    shown_planes = len(shown) * page.imagedepth
    # Only a described series declares a number of frames; others just count the pages that exist.
    is_declared = planes > 1 and (main.kind not in _COUNTED or tiff.is_imagej)
    frames = max(planes, shown_planes) // (3 if channels else 1)
    has_one_header = len(shown) == 1 and planes > shown_planes and page.is_final and page.nbytes > 0
    end = page.dataoffsets[0] + planes * page.nbytes if has_one_header else 0
    limits.check_count(path, frames, page.imagelength * page.imagewidth)
    return _Layout(
        dtype=np.dtype(np.uint8) if has_palette else page.dtype,
        is_colour=samples == 3 or channels is not None or has_palette,
        bits=None if has_palette else significant_bits(tiff, page),
        channels=channels,
        frames=frames if is_declared or next_page == 0 else None,
        # A next page within the pixels means that the other headers are lost, not absent.
        contiguous=planes if has_one_header and (next_page == 0 or next_page >= end) else 0,
        skipped=skipped,
        note=note,
    )


def _check_is_whole(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise UnreadableError if the recording is spread over several files.

    tifffile would read them all, and fill in black for missing ones.
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
        f"{path}: the recording is spread over "
        + (f"{len(files)} files" if is_root else "several files")
        + (f" ({len(missing)} of them missing: {listed(missing)})" if missing else "")
        + ". Save it as one file (in Fiji: open it with File > Import > Bio-Formats, then "
        "File > Save As > Tiff)"
    )


def _tiff_pages(tiff: tifffile.TiffFile, path: Path, limits: Limits) -> tuple[list[Any], int]:
    """Return all pages but thumbnails, and where the chain of pages breaks.

    Pages rather than series, because a file written page by page has a series for each page.

    Returns
    -------
    pages, next_page
        The pages; and the file offset of the next page, which cannot be read: 0 if the chain is
        complete, -1 if the offset itself is missing.
    """
    pages: dict[int, Any] = {}
    chain: Iterable[Any] = tiff.pages
    for page in chain:
        if page.offset in pages:  # tifffile may follow it without end when it forms series
            raise UnreadableError(
                f"{path}: its pages refer to each other in a circle. Copy or export it again"
            )
        pages[page.offset] = page
        limits.check_frame(path, page.imagelength, page.imagewidth, page.nbytes)
        limits.check_count(path, len(pages))
    shown = [page for page in pages.values() if not page.is_reduced]
    pointer_offset = tiff.pages.next_page_offset
    if pointer_offset is None:
        return shown, 0
    tiff.filehandle.seek(pointer_offset)
    size = tiff.tiff.offsetsize
    pointer = tiff.filehandle.read(size)
    (offset,) = struct.unpack(tiff.tiff.offsetformat, pointer) if len(pointer) == size else (-1,)
    return shown, offset


def _main_series(
    tiff: tifffile.TiffFile, path: Path
) -> tuple[Any, bool, frozenset[tuple[int, ...]]]:
    """Return the series of pages that holds the recording.

    Returns
    -------
    series, is_joined, skipped
        The largest series; whether the frames are the pages of all series; and the shapes of pages
        that are thumbnails of others.

    Raises
    ------
    UnreadableError
        If the file holds several recordings.
    """
    every = [series for series in tiff.series if not series.keyframe.is_reduced]
    main = max(every, key=lambda series: series.size)
    thumbnails = [
        series
        for series in every
        if _planes_in(series) == 1 < _planes_in(main) and _area(series) < _area(main)
    ]
    others = [series for series in every if series is not main and series not in thumbnails]
    # Levels of an image pyramid after the first are smaller copies.
    levels = [level for series in (main, *others) for level in series.levels[1:]]
    skipped = frozenset(series.keyframe.shape for series in (*thumbnails, *levels))
    # tifffile's own grouping of pages, by compression and so on, does not separate recordings.
    is_declared = main.kind not in _COUNTED
    pages_apart = all(_planes_in(series) == 1 for series in (main, *others))
    if others and ((is_declared and not pages_apart) or _stage_positions(tiff) > 1):
        names = [series.name or f"series {index}" for index, series in enumerate(every)]
        raise UnreadableError(
            f"{path}: holds {len(every)} recordings or positions ({listed(names)}). "
            "Export each to its own file"
        )
    return main, bool(others), skipped


def _planes_in(series: Any) -> int:
    page = series.keyframe
    count: int = series.size // max(_area(series) * page.samplesperpixel, 1)
    return count


def _area(series: Any) -> int:
    return int(series.keyframe.imagelength * series.keyframe.imagewidth)


def _stage_positions(tiff: tifffile.TiffFile) -> int:
    """Count the different stage positions (x, y) of the planes in the OME metadata."""
    planes = ome(tiff).iterfind(".//{*}Plane")
    return len({(plane.get("PositionX"), plane.get("PositionY")) for plane in planes})


def _dimensions(tiff: tifffile.TiffFile, series: Any) -> list[tuple[str, int]]:
    """Return (axis, size) for all axes but rows, columns and samples, outermost first."""
    described = tiff.imagej_metadata or {}
    samples = series.keyframe.samplesperpixel
    dimensions = [
        (axis, int(size))
        for axis, size in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS"
    ]
    if described and series.kind != "imagej":  # tifffile found fewer frames than are described
        keys = {"T": "frames", "Z": "slices"} | ({"C": "channels"} if samples == 1 else {})
        dimensions = [(axis, int(described.get(key, 1))) for axis, key in keys.items()]
        images = int(described.get("images", 1))
        if product(size for _, size in dimensions) < images:
            dimensions = [("I", images)]
    if described:  # tifffile writes an axis that its caller did not name as channels
        most = 1 if samples > 1 else IMAGEJ_CHANNELS
        dimensions = [
            ("I" if axis == "C" and size > most else axis, size) for axis, size in dimensions
        ]
    return [(axis, size) for axis, size in dimensions if size > 1]


def _note_frame_axes(dimensions: list[tuple[str, int]], path: Path) -> str:
    """Return a remark on the order of the frames; empty if they have one axis.

    Raises
    ------
    UnreadableError
        Unless the axes are time and depth, or a single one of `_FRAME_AXES`.
    """
    axes = [(axis, size) for axis, size in dimensions if axis != "C"]
    sizes = " x ".join(
        f"{size} ({tifffile.TIFF.AXES_NAMES.get(axis, axis)})" for axis, size in axes
    )
    if sorted(axis for axis, _ in axes) == ["T", "Z"]:
        return (
            f"it has {sizes} frames, which are read as one sequence. "
            "Save each time point to its own file"
        )
    if len(axes) > 1 or not all(axis in _FRAME_AXES for axis, _ in axes):
        raise UnreadableError(
            f"{path}: its frames are arranged as {sizes}, not along a single axis of time or "
            "depth. Save all times of one depth, or all depths of one time, to its own file"
        )
    return ""


def _tiff_frames(
    path: Path, layout: _Layout, limits: Limits, corrupt: list[int]
) -> Iterator[Array]:
    """Yield the stored frames, (H, W) or (H, W, 3); add broken ones to `corrupt`."""
    with _quiet():
        tiff = tifffile.TiffFile(path)
    with tiff:
        with _quiet():
            pages, next_page = _tiff_pages(tiff, path, limits)
        shown = [page for page in pages if page.shape not in layout.skipped]
        planes = (
            _contiguous_planes(tiff, shown[0], layout.contiguous, path)
            if layout.contiguous
            else _page_planes(shown, path, limits)
        )
        count = 0
        for index, frame in enumerate(_composed(planes, layout.channels)):
            if frame is None:
                corrupt.append(index)
            else:
                count += 1
                yield frame
        # The number of contiguous planes is exact, unlike that of frames in a video's header. If
        # the chain of pages is broken, frames are missing unless all declared ones were read.
        is_complete = layout.frames is not None and count >= layout.frames
        if (next_page or layout.contiguous) and not is_complete:
            corrupt.append(len(pages))


def _contiguous_planes(
    tiff: tifffile.TiffFile, page: Any, count: int, path: Path
) -> Iterator[Array | None]:
    """Yield the planes behind a single header, as many as the file holds.

    ImageJ writes such files beyond 4 GB, and so does tifffile with `truncate`. A file that was
    written at once and truncated looks the same: the headers of all other pages were at its end.
    """
    offset = page.dataoffsets[0]
    available = min(count, max(tiff.filehandle.size - offset, 0) // page.nbytes)
    if available:
        dtype = page.dtype.newbyteorder(tiff.byteorder)
        shape = (available, *page.shape)
        stored = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
        for array in stored:
            yield from _planes(array, page, path)


def _page_planes(pages: list[Any], path: Path, limits: Limits) -> Iterator[Array | None]:
    """Yield the planes of each page, or None for a page that cannot be decoded."""
    for page in pages:
        try:
            _refuse_bomb(page, path, limits)
            with _quiet():
                array = page.asarray(maxworkers=1)
            planes = _planes(array, page, path)
        except (RecordingError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - see read_tiff
            # Some codecs are part of Python's own library, but not in all versions.
            if isinstance(error, ImportError) or "imagecodecs" in str(error):
                name = getattr(page.compression, "name", page.compression)
                raise UnreadableError(
                    f"{path}: reading {name} compression needs the package imagecodecs. "
                    f"Install it with: {install('imagecodecs')}"
                ) from None
            yield None
            continue
        yield from planes


def _refuse_bomb(page: Any, path: Path, limits: Limits) -> None:
    """Raise UnreadableError if a part of a page expands to more than a page may have.

    imagecodecs stops at the size of the page; without it, tifffile expands all that there is.
    """
    if importlib.util.find_spec("imagecodecs") is not None:
        return
    if page.compression == COMPRESSION.LZMA:  # no limit to its expansion
        raise ImportError("imagecodecs")
    if page.compression not in _ZIPPED:
        return
    handle = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count * _MOST_EXPANSION <= limits.page_bytes:
            continue
        handle.seek(offset)
        packed, expanded, expander = handle.read(min(count, handle.size)), 0, zlib.decompressobj()
        with contextlib.suppress(zlib.error):  # the page cannot be decoded
            while packed and not expander.eof:
                expanded += len(expander.decompress(packed, _EXPANDED_BYTES))
                packed = expander.unconsumed_tail
                limits.check_frame(path, 1, 1, expanded)


def _composed(
    planes: Iterator[Array | None], channels: tuple[int, ...] | None
) -> Iterator[Array | None]:
    """Yield the planes, or if these are channels, a colour frame (H, W, 3) for each three."""
    if channels is None:
        yield from planes
        return
    for three in zip(planes, planes, planes, strict=False):
        decoded = [plane for channel in channels if (plane := three[channel]) is not None]
        alike = len({plane.shape for plane in decoded}) == 1
        yield np.stack(decoded, axis=-1) if len(decoded) == 3 and alike else None


def _planes(array: Array, page: Any, path: Path) -> Array:
    """Return an array of axes ...YX, ...YXS or ...SYX as (n, H, W) or (n, H, W, 3).

    Raises
    ------
    UnreadableError
        If some pixels are transparent.
    """
    axes = page.axes
    if page.photometric == PHOTOMETRIC.PALETTE:
        # (3, levels) uint16 -> (levels, 3) uint8; ImageJ and others use only the upper 8 bits.
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
    array = array.reshape(-1, *array.shape[-3:])[..., :shown]  # (n, H, W, 1 or 3)
    return array if shown == 3 else array[..., 0]
