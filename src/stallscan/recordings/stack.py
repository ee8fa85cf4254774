"""Recordings from TIFF stacks, in the dialects of ImageJ, OME and tifffile."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from stallscan.errors import UnreadableError
from stallscan.recordings.colours import (
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
from stallscan.recordings.tiff import (
    COUNTED,
    damage_named,
    decode,
    dimensions_of,
    main_series,
    none_if_damaged,
    open_file,
    other_files,
    quiet,
    read_pages,
)
from stallscan.words import listed

# Axes along which frames may follow each other: time, depth, and the two that tifffile assigns to
# pages of unknown order.
_FRAME_AXES = "TZIQ"


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
    places : dict
        Offset in the file of each page of the series -> its place in the order of the frames.
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
    places: dict[int, int]
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
    with damage_named(path), open_file(path, limits) as tiff:
        layout = _layout(tiff, path, limits)
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
    pages, next_page = read_pages(tiff, path, limits)
    main, is_joined, skipped = main_series(tiff, path)
    page = main.keyframe
    shown = [each for each in pages if each.shape not in skipped]
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnreadableError(
            f"{path}: pixels of type {page.dtype} are not supported. "
            "Export the recording with 8 or 16 bits per value"
        )
    samples = check_colours(page, path)
    dimensions = [] if is_joined else dimensions_of(tiff, main)
    channels = find_channels(tiff, main, dimensions, path)
    note = _note_frame_axes(dimensions, path)
    has_palette = page.photometric == PHOTOMETRIC.PALETTE
    planes = product(size for _, size in dimensions)
    shown_planes = len(shown) * page.imagedepth
    # Only a described series declares a number of frames; others just count the pages that exist.
    is_declared = planes > 1 and (main.kind not in COUNTED or tiff.is_imagej)
    frames = max(planes, shown_planes) // (3 if channels else 1)
    begin = page.dataoffsets[0] if page.dataoffsets else -1  # a damaged header may say less than 0
    has_values = page.is_final and page.nbytes > 0 and begin >= 0
    has_one_header = len(shown) == 1 and planes > shown_planes and has_values
    end = begin + planes * page.nbytes if has_one_header else 0
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
        places={} if is_joined else _places(main),
        note=note,
    )


def _places(series: Any) -> dict[int, int]:
    """Return `_Layout.places`; OME metadata may list the pages in another order than the file."""
    return {page.offset: at for at, page in enumerate(series.pages) if page is not None}


def _check_is_whole(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise UnreadableError if the recording is spread over several files.

    tifffile would read them all, and fill in black for missing ones.
    """
    root = ome(tiff)
    files = {element.text for element in root.iterfind(".//{*}UUID")}
    is_root = root.find("{*}BinaryOnly") is None
    if is_root and len(files) < 2:
        return
    _, missing = other_files(tiff, path)
    raise UnreadableError(
        f"{path}: the recording is spread over "
        + (f"{len(files)} files" if is_root else "several files")
        + (f" ({len(missing)} of them missing: {listed(missing)})" if missing else "")
        + ". Save it as one file (in Fiji: open it with File > Import > Bio-Formats, then "
        "File > Save As > Tiff)"
    )


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
    with quiet():
        tiff = tifffile.TiffFile(path)
    with tiff:
        with quiet():
            pages, next_page = read_pages(tiff, path, limits)
        shown = [page for page in pages if page.shape not in layout.skipped]
        shown.sort(key=lambda page: layout.places.get(page.offset, len(pages)))
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
            arrange = functools.partial(_planes, array, page, path)
            yield from _each(none_if_damaged(arrange, page, path))


def _page_planes(pages: list[Any], path: Path, limits: Limits) -> Iterator[Array | None]:
    """Yield the planes of each page, or None for a page that cannot be decoded."""
    for page in pages:
        arrange = functools.partial(_planes, page=page, path=path)
        yield from _each(decode(page, path, limits, arrange))


def _each(planes: Array | None) -> Iterable[Array | None]:
    """Return the planes, or a single None for those of a damaged page."""
    return [None] if planes is None else planes


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
        # (3, levels) uint16 -> (levels, 3) uint8; ImageJ and others use only the upper 8 bits, and
        # some programs only the lower ones, as libtiff knows.
        table = np.moveaxis(np.asarray(page.colormap), 0, -1)
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return table[array.reshape(-1, *array.shape[-2:])]
    # Also of ImageJ, like its palettes: a recording is a picture, in which somebody outlined what
    # was shown. Raw stacks were measured, so `planes` reads ImageJ's values as they are stored.
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
