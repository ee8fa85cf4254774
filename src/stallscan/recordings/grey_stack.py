"""A grey z-stack in a TIFF file, read plane by plane."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stallscan.errors import InputError, UnreadableError
from stallscan.words import listed

# Axes along which planes may follow each other; tifffile assigns I and Q to pages of unknown order.
_DEPTH = "ZIQ"


@dataclass(frozen=True)
class GreyStack:
    """The planes of one channel, (Z, H, W), each read when it is sliced.

    Attributes
    ----------
    voxel_um : tuple of float or None
        Size of a voxel along z, y, x in um, if the file states it.
    """

    shape: tuple[int, int, int]
    _path: Path
    _read: Callable[[int], Any]  # number of a plane -> (H, W)
    voxel_um: tuple[float, float, float] | None

    def __getitem__(self, index: slice) -> NDArray[Any]:
        planes = [self._load(number) for number in range(*index.indices(self.shape[0]))]
        return np.stack(planes)

    def _load(self, number: int) -> NDArray[Any]:
        try:
            plane = np.asarray(self._read(number))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - tifffile can raise almost anything
            raise UnreadableError(
                f"{self._path}: plane {number + 1} cannot be read ({error}). Copy or export it "
                "again"
            ) from None
        if plane.dtype.kind == "f" and not np.isfinite(plane).all():
            raise UnreadableError(
                f"{self._path}: plane {number + 1} has values that are not numbers. Replace them "
                "and save the stack again"
            )
        return plane


@contextlib.contextmanager
def open_grey(path: Path, channel: int = 0) -> Iterator[GreyStack]:
    """Open a z-stack; it is closed with the context.

    Parameters
    ----------
    path : Path
        TIFF file of planes along depth, with one or several channels.
    channel : int
        The channel, from 1; 0 if there is only one.

    Raises
    ------
    UnreadableError
        If the file is not a grey z-stack.
    InputError
        If the file is missing, or the channel is missing or does not exist.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the name of the stack")
    try:
        tiff = tifffile.TiffFile(path)
    except Exception as error:  # noqa: BLE001 - tifffile can raise almost anything
        raise UnreadableError(
            f"{path}: not readable as TIFF ({error}). Copy or export it again"
        ) from None
    with tiff:
        series = max(tiff.series, key=lambda each: each.size)
        yield _choose(path, tiff, series, channel)


def _choose(path: Path, tiff: tifffile.TiffFile, series: Any, channel: int) -> GreyStack:
    sizes = {
        axis: int(size)
        for axis, size in zip(series.axes, series.shape, strict=True)
        if size > 1 or axis in "YX"
    }
    if "S" in sizes:
        raise UnreadableError(
            f"{path}: has colours instead of one value per pixel. Save one channel as grey"
        )
    if series.dtype is None or series.dtype.kind not in "uif":
        raise UnreadableError(
            f"{path}: pixels of type {series.dtype} are not supported. Save 8 or 16 bits per value"
        )
    depth = [axis for axis in sizes if axis in _DEPTH]
    rest = [axis for axis in sizes if axis not in "YXC" and axis not in depth]
    if len(depth) != 1 or rest or list(sizes)[-2:] != ["Y", "X"]:
        arranged = " x ".join(
            f"{size} {tifffile.TIFF.AXES_NAMES.get(axis, axis)}" for axis, size in sizes.items()
        )
        raise UnreadableError(
            f"{path}: is arranged as {arranged}, not as planes along depth. Save the depths of one "
            "time as a z-stack"
        )
    channels = sizes.get("C", 1)
    if channel > channels or (channels > 1 and not channel):
        asked = f"there is no channel {channel}" if channel else "none was chosen"
        names = listed([str(number) for number in range(1, channels + 1)])
        raise InputError(
            f"{path}: has {channels} channels and {asked}. Name the one that shows the vessels "
            f"with --channel ({names})"
        )
    count = sizes[depth[0]]
    outer = [axis for axis in sizes if axis not in "YX"]
    chosen = max(channel - 1, 0)

    def read(number: int) -> Any:
        place = {depth[0]: number, "C": chosen}
        page = int(np.ravel_multi_index([place[axis] for axis in outer], [sizes[a] for a in outer]))
        if len(series.pages) > 1:
            return series.pages[page].asarray(maxworkers=1)
        # ImageJ writes large stacks behind the header of a single page.
        planes = tifffile.memmap(path, series=number_in_file, mode="r")
        return planes.reshape(-1, sizes["Y"], sizes["X"])[page]

    number_in_file = tiff.series.index(series)
    return GreyStack((count, sizes["Y"], sizes["X"]), path, read, _read_voxel(tiff))


def _read_voxel(tiff: tifffile.TiffFile) -> tuple[float, float, float] | None:
    """Return the voxel size along z, y, x in um that ImageJ wrote, or None."""
    about = tiff.imagej_metadata or {}
    units = {"um": 1.0, "micron": 1.0, "\\u00B5m": 1.0, "\u00b5m": 1.0, "mm": 1000.0, "nm": 0.001}
    factor = units.get(str(about.get("unit")))
    tags = tiff.pages.first.tags
    if factor is None or "spacing" not in about or "XResolution" not in tags:
        return None
    per_unit = [tags[f"{axis}Resolution"].value for axis in "YX"]  # pixels and units
    if any(not pixels or not length for pixels, length in per_unit):
        return None
    y_um, x_um = (factor * length / pixels for pixels, length in per_unit)
    return (factor * float(about["spacing"]), y_um, x_um)
