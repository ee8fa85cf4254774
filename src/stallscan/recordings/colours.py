"""Checks of the colours of a TIFF stack, and of which channels are red, green and blue."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from stallscan.errors import UnreadableError

Array = NDArray[Any]
# With these compressions, the decoder converts YCbCr to RGB.
JPEG = (COMPRESSION.OJPEG, COMPRESSION.JPEG)
# The most channels that ImageJ shows in one composite.
IMAGEJ_CHANNELS = 7
# Display colour of a channel (OME, ImageJ) -> its place in RGB.
_PRIMARIES: dict[tuple[int, ...], int] = {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 2}
_READ_COLOURS = (
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.PALETTE,
)
_AS_RGB = "Save the recording as RGB, outline included (in Fiji: Image > Type > RGB Color)"


def find_channels(
    tiff: tifffile.TiffFile, series: Any, dimensions: list[tuple[str, int]], path: Path
) -> tuple[int, ...] | None:
    """Return the indices of the red, green and blue channels; None if there are no channels.

    Raises
    ------
    UnreadableError
        Unless the file has exactly three channels and declares these colours.
    """
    count = product(size for axis, size in dimensions if axis == "C")
    if count == 1:
        return None
    order: list[int] = []
    if count == 3 and dimensions[-1][0] == "C" and series.keyframe.samplesperpixel == 1:
        colours = _ome_colours(tiff) if series.kind == "ome" else _imagej_colours(tiff)
        order = [_PRIMARIES.get(colour, 3) for colour in colours]
    if sorted(order) != [0, 1, 2]:
        raise UnreadableError(
            f"{path}: has {count} channels that are not declared as red, green and blue. {_AS_RGB}"
        )
    return tuple(order.index(primary) for primary in range(3))


def _ome_colours(tiff: tifffile.TiffFile) -> list[tuple[int, ...]]:
    """Return the RGB colours of the channels; OME stores them as signed 32-bit RGBA."""
    channels = ome(tiff).iterfind(".//{*}Channel")
    colours = [int(channel.get("Color", "-1")) & 0xFFFFFFFF for channel in channels]
    return [(rgba >> 24, rgba >> 16 & 255, rgba >> 8 & 255) for rgba in colours]


def _imagej_colours(tiff: tifffile.TiffFile) -> list[tuple[int, ...]]:
    """Return the RGB colours in which ImageJ shows the channels.

    Empty unless it shows all channels at once, without changing contrast.
    """
    described = tiff.imagej_metadata or {}
    if described.get("mode") != "composite":
        return []
    if tuple(described.get("Ranges", (0.0, 255.0) * 3)) != (0.0, 255.0) * 3:
        return []
    ramp = np.arange(256)
    # A lookup table per channel, (3, 256); without any, ImageJ uses pure red, green and blue.
    tables = described.get("LUTs") or [np.outer(primary, ramp) // 255 for primary in _PRIMARIES]
    tops = [tuple(int(value) for value in table[:, -1]) for table in tables]
    pure = all(
        (np.outer(top, ramp) // 255 == table).all() for top, table in zip(tops, tables, strict=True)
    )
    return tops if pure else []


def check_colours(page: Any, path: Path) -> int:
    """Return how many samples of a pixel carry colour: 1 for grey and palettes, 3 for RGB.

    Raises
    ------
    UnreadableError
        If the type of the colours is not supported.
    """
    photometric, samples = page.photometric, page.samplesperpixel
    rgb = photometric == PHOTOMETRIC.RGB
    if photometric == PHOTOMETRIC.YCBCR and page.compression in JPEG:
        rgb = True
    elif photometric not in _READ_COLOURS:
        name = getattr(photometric, "name", photometric)
        raise UnreadableError(f"{path}: colours of type {name} are not supported. {_AS_RGB}")
    shown = 3 if rgb else 1
    # Transparency that is declared, but that no value of a pixel is left for.
    beyond = page.extrasamples[max(samples - shown, 0) :]
    if any(kind != tifffile.EXTRASAMPLE.UNSPECIFIED for kind in beyond):
        raise UnreadableError(f"{path}: declares more values per pixel than it has. {_AS_RGB}")
    if samples - len(page.extrasamples) > shown or (not rgb and samples > 2) or samples < shown:
        raise UnreadableError(
            f"{path}: has {samples} values per pixel that are not declared as red, green and blue. "
            f"{_AS_RGB}"
        )
    return shown


def significant_bits(tiff: tifffile.TiffFile, page: Any) -> int | None:
    """Return the declared number of bits per value, None unless it is less than the type has."""
    stored: int = page.bitspersample
    for pixels in ome(tiff).iterfind(".//{*}Pixels"):
        stored = int(pixels.get("SignificantBits", stored))
    return stored if 0 < stored < 8 * page.dtype.itemsize else None


def ome(tiff: tifffile.TiffFile) -> ElementTree.Element:
    """Return the OME metadata, or an empty element.

    Raises if they do not parse: tifffile would ignore them and so join stage positions.
    """
    return ElementTree.fromstring(tiff.ome_metadata or "<none/>")


def product(sizes: Iterable[int]) -> int:
    """Multiply sizes in 64 bits."""
    return int(np.prod([*sizes, 1], dtype=np.int64))


def check_opaque(opacity: Array, path: Path) -> None:
    """Raise UnreadableError unless all pixels (H, W) have the same opacity above 0."""
    if not opacity.size or opacity.flat[0] == 0 or (opacity != opacity.flat[0]).any():
        raise UnreadableError(
            f"{path}: some pixels are transparent, so their colour is unknown. "
            "Save the recording as RGB without transparency"
        )
