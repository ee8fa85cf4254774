"""Engines: clips in, logits out, and which one a bundle is run with.

Nothing here imports torch or OpenVINO before it has been chosen: torch alone takes seconds.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.engines.exports import Precision
from stallscan.errors import BundleError, InputError, install
from stallscan.recordings.recording import Frames

Which = Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"]
PRECISIONS: dict[str, Precision] = {
    "openvino": "f32",
    "openvino-bf16": "bf16",
    "openvino-int8": "int8",
}
# What stands for a GPU that torch may be able to use: NVIDIA's and AMD's drivers, and WSL's.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class Engine(Protocol):
    """What every engine can do."""

    @property
    def name(self) -> str:
        """As `choose` takes it."""

    def logit(self, pixels: Frames) -> float:
        """Score one clip, uint8 (T, S, S, C), as the bundle's clip settings make it."""

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Score clips in order, a bounded number ahead of what is yielded; None for None."""


class Chosen(NamedTuple):
    """The engines of a bundle.

    Attributes
    ----------
    name : str
        Of all of them: the same for every member.
    reason : str
        Why this one, in a sentence.
    engines : tuple of Engine
        One for each of the bundle's `members`.
    """

    name: str
    reason: str
    engines: tuple[Engine, ...]


def choose(model: Bundle | Ensemble, which: Which = "auto") -> Chosen:
    """Open the engines that a bundle or the members of an ensemble are run with.

    Parameters
    ----------
    model : Bundle or Ensemble
        What is run.
    which : str
        ``auto`` takes torch where there is a GPU, else OpenVINO in f32 where every member carries
        an export that may be used, else torch on the processor; torch only where it is installed.

    Raises
    ------
    InputError
        If the engine that is needed is not installed or the processor cannot run it.
    BundleError
        If a bundle carries no usable export for it, or its weights do not fit its net.
    """
    if which == "auto":
        return _automatic(model)
    if which == "torch":
        return _torch(model, "asked for")
    return _openvino(model, which, "asked for")


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def _automatic(model: Bundle | Ensemble) -> Chosen:
    if has_torch() and _may_have_gpu():
        from stallscan.engines import torch_engine

        if torch_engine.has_gpu():
            return _torch(model, "there is a GPU")
    try:
        return _openvino(model, "openvino", "no GPU, and an export that fits the weights")
    except (BundleError, InputError, ImportError) as error:
        return _torch(model, str(error))


def _may_have_gpu() -> bool:
    """Whether it is worth the seconds to ask torch for a GPU."""
    return any(Path(name).exists() for name in _GPU_DEVICES) or bool(shutil.which("nvidia-smi"))


def _torch(model: Bundle | Ensemble, reason: str) -> Chosen:
    if not has_torch():
        raise InputError(
            f"the engine torch is needed ({reason}), and PyTorch is not installed; run: "
            f"{install('torch')}"
        )
    from stallscan.engines.torch_engine import TorchEngine

    engines = tuple(TorchEngine(member) for member in model.members)
    return Chosen("torch", f"{reason}; runs on {engines[0].device.type}", engines)


def _openvino(model: Bundle | Ensemble, which: Which, reason: str) -> Chosen:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    engines = tuple(OpenVinoEngine.of(member, PRECISIONS[which]) for member in model.members)
    return Chosen(which, reason, engines)
