"""Checks of the installation, with a command for each missing library."""

import importlib.metadata
import io
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import stallscan
from stallscan import cores
from stallscan.bundle import disk
from stallscan.engines import choose, exports
from stallscan.errors import BundleError, install

LIBRARIES = (
    "av",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "pandas",
    "scikit-learn",
    "tifffile",
)
# Only training needs these. Distribution name -> import name, which is a key of `EXTRAS`.
TRAINING = {
    "torch": "torch",
    "torchvision": "torchvision",
    "pytorch-lightning": "pytorch_lightning",
}
# TIFF compressions that microscope software writes. Which of them need imagecodecs depends on the
# version of tifffile.
COMPRESSIONS = ("deflate", "lzw", "zstd", "jpeg", "jpeg2000")
CODECS: tuple[tuple[str, Literal["r", "w"]], ...] = (("h264", "r"), ("libx264", "w"), ("gif", "r"))


@dataclass(frozen=True)
class Finding:
    """One checked component, with its version or state, or the command that fixes it.

    The state is ``ok``, ``missing``, or ``optional`` (absent, but only some users need it).
    """

    what: str
    found: str
    state: str = "ok"


def examine() -> list[Finding]:
    """Check everything that stallscan uses."""
    return [
        Finding("stallscan", stallscan.__version__),
        Finding("Python", f"{platform.python_version()} on {platform.platform()}"),
        Finding("processor", f"{cores.count_cores()} cores"),
        *map(_library, LIBRARIES),
        *(_library(name, library) for name, library in TRAINING.items()),
        *(_codec(name, mode) for name, mode in CODECS),
        _gpu(),
        _compressed_tiff(),
        _bundle(),
        _disk(),
    ]


def _library(name: str, of_extra: str = "") -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        if of_extra:
            return Finding(
                name, f"only for training. To install it, run: {install(of_extra)}", "optional"
            )
        return Finding(name, f"not installed. Run: pip install {name}", "missing")


def _codec(name: str, mode: Literal["r", "w"]) -> Finding:
    import av.codec
    import av.error

    job = "decoding" if mode == "r" else "encoding"
    try:
        av.codec.Codec(name, mode)
    except (av.error.FFmpegError, ValueError):
        return Finding(
            f"{name} {job}",
            "not in this build of PyAV. Run: pip install --force-reinstall av",
            "missing",
        )
    return Finding(f"{name} {job}", "works")


def _gpu() -> Finding:
    if not choose.has_torch():
        return Finding("GPU", "not checked: only torch uses a GPU", "optional")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", torch.cuda.get_device_name())
    return Finding("GPU", "none found. Prediction runs on the CPU; training is slower", "optional")


def _compressed_tiff() -> Finding:
    """Write and read an image in each compression; an imagecodecs build may lack some of them."""
    import tifffile

    image = np.zeros((8, 8), np.uint8)
    missing = []
    for compression in COMPRESSIONS:
        buffer = io.BytesIO()
        try:
            tifffile.imwrite(buffer, image, compression=compression)
            buffer.seek(0)
            tifffile.imread(buffer)
        # The type of the error depends on the compression and on the version.
        except Exception:  # noqa: BLE001
            missing.append(compression)
    if not missing:
        return Finding("compressed TIFF", f"{', '.join(COMPRESSIONS)}: works")
    return Finding(
        "compressed TIFF",
        f"{', '.join(missing)}: not supported. Run: {install('imagecodecs')}",
        "optional",
    )


def _bundle() -> Finding:
    try:
        model = disk.load()
    except BundleError as error:
        return Finding("default bundle", str(error), "missing")
    origin = "trained on simulated recordings only" if model.spec.simulated else "trained"
    engines = ["torch"] if choose.has_torch() else []
    engines += [
        name for name, precision in choose.PRECISIONS.items() if exports.has(model, precision)
    ]
    return Finding("default bundle", f"{model.label}, {origin}; engines: {', '.join(engines)}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("free disk space", f"{free:.0f} GB")
