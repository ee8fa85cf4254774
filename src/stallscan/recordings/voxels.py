"""Voxel size, frame time and channel names, as far as the metadata of a TIFF file state them.

Nothing is guessed: a resolution in dots per inch, or in a unit that is no length, is no voxel size.
"""

import contextlib
import math
from typing import Any, NamedTuple

import tifffile

from stallscan.recordings.colours import ome

# Units of length in um and of time in s, in the spellings of OME, ImageJ and ScanImage.
_UM = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "inch": 25_400.0,
}
_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "min": 60.0}


class Voxels(NamedTuple):
    """What a file says about its voxels; None or empty where it says nothing.

    Attributes
    ----------
    z_um, y_um, x_um : float or None
        Distance of planes, of rows and of columns in um, above 0.
    frame_s : float or None
        Time from frame to frame in s, above 0.
    channels : tuple of str
        Names of the channels, in their order.
    """

    z_um: float | None = None
    y_um: float | None = None
    x_um: float | None = None
    frame_s: float | None = None
    channels: tuple[str, ...] = ()


def read_voxels(tiff: tifffile.TiffFile) -> Voxels:
    """Read what OME, ImageJ or ScanImage metadata say; ImageJ's win over ScanImage's.

    ImageJ keeps the description of a file that it has changed only if it still holds.
    """
    if tiff.is_ome:
        return _of_ome(tiff)
    if tiff.is_imagej:
        return _of_imagej(tiff)
    return _of_scanimage(_frame_data(tiff), tiff.pages.first)


def says_channels(tiff: tifffile.TiffFile) -> bool:
    """Return whether ScanImage's metadata name the channels, without which planes have no order."""
    return "SI.hChannels.channelSave" in _frame_data(tiff)


def says_repeats(tiff: tifffile.TiffFile) -> bool:
    """Return whether ScanImage recorded several volumes, or saved means of several frames.

    tifffile takes the planes of all volumes for depths, and the frames before averaging for those
    in the file.
    """
    frame = _frame_data(tiff)
    # Before 2020, the number of volumes stood with fast z, also while that was switched off.
    volumes = frame.get("SI.hFastZ.numVolumes") if frame.get("SI.hFastZ.enable") is True else 1
    volumes = frame.get("SI.hStackManager.actualNumVolumes", volumes)
    counts = (volumes, frame.get("SI.hScan2D.logAverageFactor"))
    return any(isinstance(count, int | float) and count > 1 for count in counts)


def _frame_data(tiff: tifffile.TiffFile) -> dict[str, Any]:
    """Return the settings that ScanImage 2016 and later store for all frames."""
    metadata = tiff.scanimage_metadata or {}
    frame: dict[str, Any] = metadata.get("FrameData", {})
    return frame


def _of_ome(tiff: tifffile.TiffFile) -> Voxels:
    pixels = ome(tiff).find(".//{*}Pixels")
    if pixels is None:
        return Voxels()
    z_um, y_um, x_um = (
        _convert(
            pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"), _UM
        )
        for axis in "ZYX"
    )
    return Voxels(
        z_um,
        y_um,
        x_um,
        frame_s=_convert(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"), _S),
        channels=tuple(each.get("Name", "") for each in pixels.iterfind("{*}Channel")),
    )


def _of_imagej(tiff: tifffile.TiffFile) -> Voxels:
    described = tiff.imagej_metadata or {}
    tags = tiff.pages.first.tags
    unit = str(described.get("unit", ""))
    if "\\u" in unit:  # ImageJ escapes the micro sign as \u00B5
        unit = unit.encode("ascii", "ignore").decode("unicode_escape")
    sides: list[float | None] = []
    for name, axis in (("YResolution", "y"), ("XResolution", "x")):
        count, length = tags[name].value if name in tags else (0, 0)  # pixels in a length
        sides.append(
            _convert(
                length / count if count else None, str(described.get(f"{axis}unit", unit)), _UM
            )
        )
    return Voxels(
        _convert(described.get("spacing"), str(described.get("zunit", unit)), _UM),
        y_um=sides[0],
        x_um=sides[1],
        # Not fps, which is the speed at which ImageJ plays the stack.
        frame_s=_convert(described.get("finterval"), str(described.get("tunit", "s")), _S),
    )


def _of_scanimage(frame: dict[str, Any], page: Any) -> Voxels:
    """Read the metadata of ScanImage 2016 and later; earlier ones do not state the field in um."""
    field: Any = frame.get("SI.hRoiManager.imagingFovUm")
    sides: tuple[float | None, float | None] = (None, None)
    with contextlib.suppress(TypeError, ValueError, IndexError):
        corners = [(float(x), float(y)) for x, y in field]  # four corners, um
        width, height = (
            max(corner[axis] for corner in corners) - min(corner[axis] for corner in corners)
            for axis in (0, 1)
        )
        sides = (
            _positive(height / page.imagelength),
            _positive(width / page.imagewidth),
        )
    depths = frame.get("SI.hStackManager.stackZStepSize")
    return Voxels(
        _positive(abs(depths) if isinstance(depths, int | float) else None),
        *sides,
        frame_s=_positive(frame.get("SI.hRoiManager.scanFramePeriod")),
        channels=_scanimage_channels(frame),
    )


def _scanimage_channels(frame: dict[str, Any]) -> tuple[str, ...]:
    saved: Any = frame.get("SI.hChannels.channelSave")
    names: Any = frame.get("SI.hChannels.channelName")
    with contextlib.suppress(TypeError, ValueError, IndexError):
        numbers = [int(number[0] if isinstance(number, list) else number) for number in saved]
        return tuple(str(names[number - 1]) for number in numbers)
    return ()


def _convert(value: Any, unit: str, units: dict[str, float]) -> float | None:
    """Return a length in um or a time in s; None if it is not stated in a known unit."""
    number = _positive(value)
    factor = units.get(unit.strip().lower())
    return number * factor if number is not None and factor is not None else None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
