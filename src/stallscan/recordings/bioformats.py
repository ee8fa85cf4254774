"""Raw stacks in the formats of microscopes (CZI, ND2, LIF) and in OME-Zarr, by way of bioio."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stallscan.errors import UnreadableError, install
from stallscan.recordings.colours import Array
from stallscan.recordings.planes import Place, Planes
from stallscan.recordings.voxels import Voxels
from stallscan.words import listed

SUFFIXES = (".czi", ".nd2", ".lif", ".zarr")


def reads(path: Path) -> bool:
    """Return whether a file has the name of one of these formats."""
    return path.suffix.lower() in SUFFIXES


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Planes]:
    """Open a file; its planes are read when they are asked for.

    Raises
    ------
    UnreadableError
        If bioio or its plugin for the format is not installed, the file cannot be read, or it holds
        several fields.
    """
    try:
        from bioio import BioImage
    except ImportError:
        raise UnreadableError(
            f"{path}: reading {path.suffix} needs the package bioio. Install it with: "
            f"{install('bioio')}"
        ) from None
    try:
        image = BioImage(path)
        planes = _describe(path, image)
    # Each of the readers raises errors of its own.
    except Exception as error:
        if isinstance(error, UnreadableError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UnreadableError(
            f"{path}: bioio cannot read it ({reason}). Check that the file is complete and the "
            f"plugin for {path.suffix} is installed: {install('bioio')}"
        ) from None
    yield planes


def _describe(path: Path, image: Any) -> Planes:
    if len(image.scenes) > 1:
        raise UnreadableError(
            f"{path}: holds {len(image.scenes)} fields ({listed([*map(str, image.scenes)])}). "
            "Export each to its own file"
        )
    order = image.dims.order  # TCZYX, with S at the end for colours
    lazy = image.dask_data
    sizes = dict(zip(order, lazy.shape, strict=True))
    outer = [(axis, int(size)) for axis, size in sizes.items() if axis not in "YX" and size > 1]

    def read(place: Place) -> Array | None:
        index = tuple(slice(None) if axis in "YX" else place.get(axis, 0) for axis in order)
        try:
            return np.asarray(lazy[index].compute(scheduler="synchronous"))
        except MemoryError:
            raise
        # A damaged plane, by an error of its reader.
        except Exception:  # noqa: BLE001
            return None

    interval: Any = getattr(image, "time_interval", None)
    seconds = interval.total_seconds() if hasattr(interval, "total_seconds") else interval
    size = image.physical_pixel_sizes
    z_um, y_um, x_um = (float(side) if side and side > 0 else None for side in size)
    names = tuple(map(str, image.channel_names or ()))
    voxels = Voxels(z_um, y_um, x_um, float(seconds) if seconds else None, names)
    shape = int(sizes["Y"]), int(sizes["X"])
    return Planes(path, tuple(outer), shape, lazy.dtype, voxels, lambda _: True, read)
