"""Image stacks and arrays: TIFF in its dialects, and npy."""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recording import (
    ArrayDecoder,
    Frames,
    Recording,
    check_shape,
    collect,
    of_frames,
)

# What it would log about a damaged file is raised, or noted as corrupt.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read_tiff(path: Path, hold_bytes: int) -> Recording:
    """Read every page of a TIFF; pages that are broken are noted as corrupt.

    Raises
    ------
    UnreadableError
        If there is no page that can be read, or the pages differ in size or type.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            dtype, is_colour = page.dtype, "S" in page.axes
            declared = _frames_in_tiff(tiff)
    # Whatever tifffile's code stumbles over in a damaged file is raised as it comes.
    except Exception as error:  # noqa: BLE001
        raise UnreadableError(f"{path}: not readable as TIFF ({error})") from None
    if dtype is None or dtype.kind not in "uif":
        raise UnreadableError(f"{path}: TIFF pixels of type {dtype} are not supported")
    corrupt: list[int] = []

    def frames() -> Iterator[NDArray[Any]]:
        corrupt.clear()
        for frame in _tiff_frames(path, corrupt):
            if frame.dtype.newbyteorder("=") != dtype.newbyteorder("="):
                raise UnreadableError(f"{path}: has pixels of type {dtype} and {frame.dtype}")
            yield frame

    scale = _scale_to_8_bits(dtype, frames, is_colour)
    decoder = ArrayDecoder(lambda: map(scale, frames()))
    return collect(path, decoder, hold_bytes, lambda: declared, corrupt)


def _frames_in_tiff(tiff: tifffile.TiffFile) -> int:
    """Count the frames that the headers promise."""
    pages, complete = _tiff_pages(tiff)
    shown: int = len(pages) * tiff.pages.first.imagedepth
    if tiff.imagej_metadata:
        return max(shown, int(tiff.imagej_metadata.get("images", 0)))
    if complete and len(pages) == 1:
        shown *= max(tiff.series[0].size // max(pages[0].size, 1), 1)
    return shown


def _tiff_pages(tiff: tifffile.TiffFile) -> tuple[list[Any], bool]:
    """Give the pages, less the small copies of others, and whether the chain of pages is whole.

    Pages rather than series, because a file written page by page has a series for each.
    """
    pages: dict[int, Any] = {}
    chain: Iterable[Any] = tiff.pages
    for page in chain:
        if page.offset in pages:  # a damaged chain may lead back and never end
            return list(pages.values()), False
        pages[page.offset] = page
    shown = [page for page in pages.values() if not page.is_reduced]
    place = tiff.pages.next_page_offset
    tiff.filehandle.seek(place or 0)
    complete = place is None or not any(tiff.filehandle.read(tiff.tiff.offsetsize))
    return shown, complete


def _tiff_frames(path: Path, corrupt: list[int]) -> Iterator[NDArray[Any]]:
    """Yield (H, W) or (H, W, 3) as stored, from every page; note broken pages in `corrupt`."""
    with tifffile.TiffFile(path) as tiff:
        pages, complete = _tiff_pages(tiff)
        if complete and len(pages) == 1 and tiff.series[0].size > pages[0].size:
            # One header for all frames: ImageJ beyond 4 GB, tifffile's `truncate`.
            try:
                stack = tifffile.memmap(path, mode="r")
            except ValueError:  # they are not all there: take the one that the header describes
                complete = False
            else:
                yield from _planes(stack, tiff.series[0].axes)
                return
        for index, page in enumerate(pages):
            try:
                planes = _planes(page.asarray(), page.axes)
            except Exception as error:  # noqa: BLE001 - see read_tiff
                if "imagecodecs" in str(error):
                    raise UnreadableError(
                        f"{path}: {error}; install it with: pip install 'stallscan[lab]'"
                    ) from None
                corrupt.append(index)
                continue
            yield from planes
        if not complete:
            corrupt.append(len(pages))


def _planes(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """Bring an array with the axes ...YX, ...YXS or ...SYX to (n, H, W) or (n, H, W, 3)."""
    if "S" not in axes:
        return array.reshape(-1, *array.shape[-2:])
    array = np.moveaxis(array, axes.index("S"), -1)
    if array.shape[-1] == 4:
        array = array[..., :3]  # the fourth is opacity
    return array.reshape(-1, *array.shape[-3:])


def _scale_to_8_bits(
    dtype: np.dtype[Any], pages: Callable[[], Iterator[NDArray[Any]]], is_colour: bool
) -> Callable[[NDArray[Any]], Frames]:
    """Choose how the pixels of a stack become uint8, alike for all its frames.

    Colours must keep their meaning, so RGB is divided by its full range (12 bits if it fits).
    Grey levels are stretched from the lowest to the 99.9th percentile, as display software does.
    """
    if dtype == np.uint8:
        return lambda array: np.asarray(array, dtype=np.uint8)
    if is_colour and dtype.kind == "u":
        top = max((int(page.max()) for page in pages()), default=0)
        low, high = 0.0, 255.0 if top <= 255 else 4095.0 if top <= 4095 else 65535.0
    else:
        finite = (page[np.isfinite(page)] for page in pages())
        spread = [np.percentile(values, (0, 99.9)) for values in finite if values.size]
        low = float(min((s[0] for s in spread), default=0.0))
        high = float(max((s[1] for s in spread), default=1.0))
    gain = 255.0 / max(high - low, 1e-12)

    def scale(array: NDArray[Any]) -> Frames:
        known = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        stretched = (np.clip(known, low, high) - low) * gain
        levels: Frames = np.clip(np.rint(stretched), 0, 255).astype(np.uint8)
        return levels

    return scale


def read_npy(path: Path, hold_bytes: int) -> Recording:
    """Read an array (T, H, W) or (T, H, W, 3) of numbers; no pickles.

    Raises
    ------
    UnreadableError
        If it is not such an array.
    """
    try:
        # Not np.load, which takes archives and pickles for arrays too.
        array = np.lib.format.open_memmap(path, mode="r")
    # Whatever numpy's parser stumbles over in a damaged header is raised as it comes.
    except Exception as error:  # noqa: BLE001
        raise UnreadableError(f"{path}: not readable as npy ({error})") from None
    check_shape(array.shape, path)
    if array.dtype.kind not in "uif":
        raise UnreadableError(f"{path}: npy values of type {array.dtype} are not supported")
    if array.dtype != np.uint8:
        is_colour = array.ndim == 4
        scale = _scale_to_8_bits(array.dtype, lambda: iter(array), is_colour)
        decoder = ArrayDecoder(lambda: map(scale, array))
        return collect(path, decoder, hold_bytes, lambda: len(array), [])
    return of_frames(path, array, len(array))
