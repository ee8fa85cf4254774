"""What TIFF files hold: the chain of pages, the main series, and its dimensions."""

import contextlib
import importlib.util
import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from tifffile import COMPRESSION

from stallscan.errors import RecordingError, UnreadableError, install
from stallscan.recordings.colours import IMAGEJ_CHANNELS, Array, ome, product
from stallscan.recordings.limits import Limits
from stallscan.words import listed

# Kinds of series that tifffile forms by grouping similar pages, if the file describes no series.
COUNTED = ("generic", "uniform")
# Compressions that tifffile expands by itself, and by how much they expand at most.
_ZIPPED, _MOST_EXPANSION = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE), 1032
_EXPANDED_BYTES = 2**20  # at a time
# Tags with the size of a page or of its parts (ImageWidth, ImageLength, SamplesPerPixel,
# RowsPerStrip, TileWidth, TileLength, ImageDepth, TileDepth), tags with the places and lengths of
# the parts (StripOffsets, StripByteCounts, TileOffsets, TileByteCounts), and whole numbers' types.
_SIZES = frozenset({256, 257, 277, 278, 322, 323, 32997, 32998})
_PLACES = frozenset({273, 279, 324, 325})
_WHOLE_NUMBERS = frozenset({1, 3, 4, 6, 8, 9, 16, 17})
_MOST_TAGS = 4096  # of a page; tifffile refuses more


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


quiet = _Quiet()
logging.getLogger("tifffile").addFilter(quiet)


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever tifffile raises within the block, which reads headers, into UnreadableError."""
    try:
        with quiet():
            yield
    except RecordingError:
        raise
    except MemoryError:
        raise UnreadableError(
            f"{path}: its header asks for more memory than there is. Copy or export it again"
        ) from None
    # tifffile can raise almost anything on a damaged file.
    except Exception as error:  # noqa: BLE001
        raise UnreadableError(
            f"{path}: not readable as TIFF ({error}). Copy or export it again"
        ) from None


def open_file(path: Path, limits: Limits) -> tifffile.TiffFile:
    """Open a TIFF file whose pages say their sizes and places in whole numbers.

    tifffile computes with the sizes of a page when it reads its tags, and would repeat a text or a
    list as often as there are rows.

    Raises
    ------
    UnreadableError
        If a page does not, or there are more pages than a recording may have.
    """
    # Where the chain of pages breaks, tifffile ends it, too.
    with path.open("rb") as file, contextlib.suppress(struct.error):
        for number, tags in enumerate(_read_tags(file), start=1):
            limits.check_count(path, number)
            for tag, kind, count in tags:
                is_whole = kind in _WHOLE_NUMBERS and (count == 1 or tag in _PLACES)
                if tag in _SIZES | _PLACES and not is_whole:
                    raise _without_size(path)
    return tifffile.TiffFile(path)


def _read_tags(file: BinaryIO) -> Iterator[Iterator[tuple[int, ...]]]:
    """Yield the tags of each page: code, type and number of values (TIFF 6.0, BigTIFF)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return
    is_big = head[2:4] == struct.pack(f"{order}H", 43)
    length, tag, pointer = ("Q", "HHQ8x", "Q") if is_big else ("H", "HHI4x", "I")
    (offset,) = struct.unpack_from(f"{order}{pointer}", head, 8 if is_big else 4)
    seen = {0}  # which ends the chain
    while offset < size and offset not in seen:
        seen.add(offset)
        file.seek(offset)
        (count,) = _unpack(file, f"{order}{length}")
        content = file.read(struct.calcsize(f"{order}{tag}") * min(count, _MOST_TAGS))
        yield struct.iter_unpack(f"{order}{tag}", content)
        (offset,) = _unpack(file, f"{order}{pointer}")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _without_size(path: Path) -> UnreadableError:
    return UnreadableError(
        f"{path}: a page does not say how large it is, or where its values are. Copy or export the "
        "file again"
    )


def decode(
    page: Any,
    path: Path,
    limits: Limits,
    arrange: Callable[[Array], Array] = lambda array: array,
) -> Array | None:
    """Decode a page and arrange its values; None if it is damaged, as `arrange` may find, too.

    Raises
    ------
    UnreadableError
        If its compression needs a package that is not installed, or it expands beyond the limits.
    """

    def values() -> Array:
        # tifffile takes memory for what a page says, not for what the file holds.
        if max(page.databytecounts, default=0) > page.parent.filehandle.size:
            raise ValueError("a part of the page is larger than the file")
        _refuse_bomb(page, path, limits)
        with quiet():
            return np.asarray(page.asarray(maxworkers=1))

    return none_if_damaged(lambda: arrange(values()), page, path)


def none_if_damaged(read: Callable[[], Array], page: Any, path: Path) -> Array | None:
    """Return what `read` makes of a page; None if it raises because the page is damaged.

    Raises
    ------
    UnreadableError
        If the compression of the page needs a package that is not installed, or as `read` does.
    """
    try:
        return read()
    except (RecordingError, MemoryError):
        raise
    # As in `damage_named`.
    except Exception as error:  # noqa: BLE001
        # Some codecs are part of Python's own library, but not in all versions.
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            name = getattr(page.compression, "name", page.compression)
            raise UnreadableError(
                f"{path}: reading {name} compression needs the package imagecodecs. Install it "
                f"with: {install('imagecodecs')}"
            ) from None
        return None


def other_files(tiff: tifffile.TiffFile, path: Path) -> tuple[list[str], list[str]]:
    """Return the names of the other files of an OME-TIFF, and those of them that do not exist."""
    own = ome(tiff).get("UUID")
    named = {
        element.get("FileName", "")
        for element in ome(tiff).iterfind(".//{*}UUID")
        if element.text != own
    }
    others = sorted(named - {"", path.name})
    return others, [name for name in others if not (path.parent / name).is_file()]


def read_pages(tiff: tifffile.TiffFile, path: Path, limits: Limits) -> tuple[list[Any], int]:
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
        sizes = (page.imagelength, page.imagewidth, page.imagedepth, page.samplesperpixel)
        # tifffile forms series without end of pages of negative size.
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise _without_size(path)
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


def main_series(
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
    is_declared = main.kind not in COUNTED
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


def dimensions_of(tiff: tifffile.TiffFile, series: Any) -> list[tuple[str, int]]:
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
        packed, expanded, expander = handle.read(count), 0, zlib.decompressobj()
        with contextlib.suppress(zlib.error):  # the page cannot be decoded
            while packed and not expander.eof:
                expanded += len(expander.decompress(packed, _EXPANDED_BYTES))
                packed = expander.unconsumed_tail
                limits.check_frame(path, 1, 1, expanded)
