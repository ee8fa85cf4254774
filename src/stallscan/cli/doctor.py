"""What is installed, what works here, and what is missing with the way to get it."""

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
# What only some commands need, with the library of `EXTRAS` that is imported.
TRAINING = {
    "torch": "torch",
    "torchvision": "torchvision",
    "pytorch-lightning": "pytorch_lightning",
}
# That microscopes' programs write; none of them, some, or all need imagecodecs.
COMPRESSIONS = ("deflate", "lzw", "zstd", "jpeg", "jpeg2000")
CODECS: tuple[tuple[str, Literal["r", "w"]], ...] = (("h264", "r"), ("libx264", "w"), ("gif", "r"))


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    what : str
        What was looked at.
    found : str
        What it is, or what to do about it.
    state : str
        ``ok``; ``optional`` (absent, and not needed by everybody); ``missing``.
    """

    what: str
    found: str
    state: str = "ok"


def examine() -> list[Finding]:
    """Look at everything that stallscan needs."""
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
            return Finding(name, f"only for training; get it with: {install(of_extra)}", "optional")
        return Finding(name, f"not installed; run: pip install {name}", "missing")


def _codec(name: str, mode: Literal["r", "w"]) -> Finding:
    import av.codec
    import av.error

    job = "decoding" if mode == "r" else "encoding"
    try:
        av.codec.Codec(name, mode)
    except (av.error.FFmpegError, ValueError):
        return Finding(
            f"{name} {job}", "not in this build; run: pip install --force-reinstall av", "missing"
        )
    return Finding(f"{name} {job}", "works")


def _gpu() -> Finding:
    if not choose.has_torch():
        return Finding("GPU", "not looked for: without torch there is no use for one", "optional")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", torch.cuda.get_device_name())
    return Finding("GPU", "none; prediction does not need one, training is slower", "optional")


def _compressed_tiff() -> Finding:
    """Write and read a picture in each compression: an installed package may lack some of them."""
    import tifffile

    picture = np.zeros((8, 8), np.uint8)
    missing = []
    for compression in COMPRESSIONS:
        buffer = io.BytesIO()
        try:
            tifffile.imwrite(buffer, picture, compression=compression)
            buffer.seek(0)
            tifffile.imread(buffer)
        # Each compression and each version of the package says in its own way that it is missing.
        except Exception:  # noqa: BLE001
            missing.append(compression)
    if not missing:
        return Finding("compressed TIFF", f"{', '.join(COMPRESSIONS)}: works")
    found = f"{', '.join(missing)}: only with: {install('imagecodecs')}"
    return Finding("compressed TIFF", found, "optional")


def _bundle() -> Finding:
    try:
        model = disk.load()
    except BundleError as error:
        return Finding("default bundle", str(error), "missing")
    origin = "trained on simulated recordings only" if model.spec.simulated else "trained"
    engines = ["torch"] if choose.has_torch() else []
    found = choose.PRECISIONS.items()
    engines += [name for name, precision in found if exports.has(model, precision)]
    return Finding("default bundle", f"{model.label}, {origin}; engines: {', '.join(engines)}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("free disk here", f"{free:.0f} GB")
