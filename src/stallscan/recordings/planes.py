"""The planes of a raw stack in a TIFF file, each read when it is asked for.

OME-TIFF (also of several files), ImageJ hyperstacks, ScanImage, BigTIFF and plain TIFF. At most one
page is in memory.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from stallscan.errors import UnreadableError
from stallscan.recordings.colours import Array, ome, product
from stallscan.recordings.limits import LIMITS, STACK_LIMITS, Limits
from stallscan.recordings.tiff import (
    damage_named,
    decode,
    dimensions_of,
    main_series,
    open_file,
    other_files,
    read_pages,
)
from stallscan.recordings.voxels import Voxels, read_voxels, says_channels, says_repeats

# Where a plane is: its index along each axis but rows and columns.
Place = Mapping[str, int]
_COLOURS = ("red", "green", "blue", "alpha")


@dataclass(frozen=True)
class Planes:
    """The planes of one file, or of several files that belong together.

    Attributes
    ----------
    dimensions : tuple
        (axis, size) for all axes but rows and columns, outermost first, each size above 1: time
        ``T``, depth ``Z``, channel ``C``, samples of a pixel ``S``; pages of unknown order ``I`` or
        ``Q``.
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        Type of the pixels: integers or floating-point numbers.
    voxels : Voxels
        What the metadata say.
    has : callable
        Whether a plane is in the files.
    read : callable
        Read a plane, (H, W); None if it cannot be decoded.
    missing : tuple of str
        Names of the files that belong to the stack and do not exist.
    """

    path: Path
    dimensions: tuple[tuple[str, int], ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    voxels: Voxels
    has: Callable[[Place], bool]
    read: Callable[[Place], Array | None]
    missing: tuple[str, ...] = ()


@contextlib.contextmanager
def open_tiff(path: Path, limits: Limits = STACK_LIMITS) -> Iterator[Planes]:
    """Open a TIFF file; it is closed with the context.

    Raises
    ------
    UnreadableError
        If it is not a TIFF file, its end is missing, or it holds several recordings.
    """
    with contextlib.ExitStack() as stack:
        with damage_named(path):
            tiff = stack.enter_context(open_file(path, limits))
            planes, handles = _read_headers(tiff, path, limits)
            for handle in handles:
                handle.open()
                stack.callback(handle.close)
        yield planes


def _shows_values(tiff: tifffile.TiffFile, page: Any) -> bool:
    """Return whether a palette shows measured values in a colour, as ImageJ's lookup tables do.

    Such a table gets steadily lighter or darker; the colours of a picture are in no order.
    """
    red, green, blue = np.asarray(page.colormap, np.float64)  # (256,) each
    steps = np.diff(0.299 * red + 0.587 * green + 0.114 * blue)
    return bool(tiff.is_imagej and steps.any() and ((steps >= 0).all() or (steps <= 0).all()))


def _read_headers(
    tiff: tifffile.TiffFile, path: Path, limits: Limits
) -> tuple[Planes, list[tifffile.FileHandle]]:
    """Return the planes, and the other files that they are in, which are closed."""
    if ome(tiff).find("{*}BinaryOnly") is not None:
        raise UnreadableError(
            f"{path}: its description is in another file. Name the main file of this OME-TIFF, or "
            "save the stack as one file"
        )
    if tiff.is_scanimage and not says_channels(tiff):
        raise UnreadableError(
            f"{path}: this version of ScanImage does not say which of its planes are channels. Set "
            "the order in Fiji with Image > Hyperstacks > Stack to Hyperstack, and save the stack"
        )
    if says_repeats(tiff):
        raise UnreadableError(
            f"{path}: ScanImage recorded several volumes or saved means of frames, so the order "
            "and times of the planes are unclear. Set the order in Fiji with Image > Hyperstacks > "
            "Stack to Hyperstack, and save the stack"
        )
    pages, next_page = read_pages(tiff, path, limits)
    main, is_joined, skipped = main_series(tiff, path)
    page = main.keyframe
    is_coloured = page.photometric == PHOTOMETRIC.PALETTE and not _shows_values(tiff, page)
    if is_coloured or page.photometric == PHOTOMETRIC.YCBCR:
        raise UnreadableError(
            f"{path}: has colours instead of measured values. Export the channel as grey, 16 bits"
        )
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnreadableError(
            f"{path}: pixels of type {page.dtype} are not supported. "
            "Export the stack with 8 or 16 bits per value"
        )
    shown = [each for each in pages if each.shape not in skipped]
    outer = [("I", len(shown))] if is_joined else dimensions_of(tiff, main)
    outer = [(axis, size) for axis, size in outer if size > 1]
    if len({axis for axis, _ in outer}) < len(outer):
        raise UnreadableError(
            f"{path}: describes one axis of its planes twice. Export the stack again"
        )
    samples = [("S", page.samplesperpixel)] if page.samplesperpixel > 1 else []
    if tiff.is_ome and not is_joined:
        shown = list(main.pages)  # of several files; None for a missing one
    layout = _Layout(path, tiff, main, page, tuple(size for _, size in outer), shown)
    layout.check_whole(next_page)
    axes, shape = [axis for axis, _ in outer], (page.imagelength, page.imagewidth)

    def number(place: Place) -> int:
        """Return the number of a plane in the order of the file."""
        index = [place[axis] for axis in axes]
        return int(np.ravel_multi_index(index, layout.sizes)) if index else 0

    def read(place: Place) -> Array | None:
        plane = layout.read(number(place))  # (H, W), (H, W, S) or (S, H, W)
        if plane is not None and samples:
            plane = np.asarray(np.take(plane, place["S"], axis=0 if page.axes[0] == "S" else -1))
        # A damaged header may describe another shape.
        return plane if plane is not None and plane.shape == shape else None

    voxels = read_voxels(tiff)
    if samples and page.photometric == PHOTOMETRIC.RGB:
        voxels = voxels._replace(channels=_COLOURS)
    planes = Planes(
        path,
        (*outer, *samples),
        shape,
        page.dtype,
        voxels,
        has=lambda place: layout.has(number(place)),
        read=read,
        missing=tuple(other_files(tiff, path)[1]),
    )
    handles = {id(each.parent): each.parent.filehandle for each in shown if each is not None}
    return planes, [handle for handle in handles.values() if handle.closed]


@dataclass
class _Layout:
    """Where each plane is in a file: one after another behind a header, or in pages."""

    path: Path
    tiff: tifffile.TiffFile
    series: Any
    page: Any
    sizes: tuple[int, ...]  # of the axes before the plane's own
    pages: list[Any]  # None for a page in a missing file

    @property
    def count(self) -> int:
        return product(self.sizes)

    @property
    def plane_bytes(self) -> int:
        plane = self.page.imagelength * self.page.imagewidth * self.page.samplesperpixel
        return int(plane * self.page.dtype.itemsize)

    @property
    def is_contiguous(self) -> bool:
        """Whether the planes follow each other behind a single header, as ImageJ writes them."""
        return len(self.pages) == 1 and self.count > self.page.imagedepth and self.page.is_final

    def check_whole(self, next_page: int) -> None:
        """Raise UnreadableError if planes are missing at the end of the file."""
        if self.is_contiguous:
            begin = self.page.dataoffsets[0]
            # A damaged header may say less than 0.
            room = max(self.tiff.filehandle.size - begin, 0) if begin >= 0 else 0
            found = room // self.plane_bytes
        else:
            found = len(self.pages) * self.page.imagedepth
        if found < self.count or (next_page and not self.is_contiguous):
            whole = f" of {self.count:,}" if found < self.count else ""
            raise UnreadableError(
                f"{self.path}: the end of the file is missing; {found:,}{whole} planes can be "
                "read. Copy it again"
            )

    def has(self, number: int) -> bool:
        return self.is_contiguous or self.pages[number // self.page.imagedepth] is not None

    def read(self, number: int) -> Array | None:
        """Read a plane with all its samples; None if it cannot be decoded."""
        if self.is_contiguous:
            return self._read_contiguous(number)
        index, inside = divmod(number, self.page.imagedepth)
        page = self.pages[index]
        array = decode(page, self.path, LIMITS)
        if array is None:
            return None
        # A damaged header, of this page or of the first.
        if array.shape != self.page.shape or array.dtype.kind != self.page.dtype.kind:
            return None
        if self.page.imagedepth > 1:
            array = array[inside]
        return self._measured(array)

    def _read_contiguous(self, number: int) -> Array | None:
        handle = self.tiff.filehandle
        handle.seek(self.page.dataoffsets[0] + number * self.plane_bytes)
        content = handle.read(self.plane_bytes)
        if len(content) < self.plane_bytes:
            return None
        values = np.frombuffer(content, self.page.dtype.newbyteorder(self.tiff.byteorder))
        inner = self.page.shape[-3 if self.page.samplesperpixel > 1 else -2 :]
        if values.size != product(inner):  # a damaged header
            return None
        return self._measured(values.reshape(inner))

    def _measured(self, array: Array) -> Array:
        # ImageJ's inverted lookup table changes what is shown, not the values: its masks are 255
        # inside, whether they are shown in white or in black. As a recording, the same file is read
        # as it is shown (`stack.read_tiff`).
        if self.page.photometric != PHOTOMETRIC.MINISWHITE or self.tiff.is_imagej:
            return array
        return ~array if array.dtype.kind == "u" else -array
