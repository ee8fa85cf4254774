"""Choose the engine that runs a bundle: clips in, logits out.

Neither torch nor OpenVINO is imported until it is chosen: torch alone takes seconds to import.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.engines.exports import Precision
from stallscan.engines.feature_engine import FeatureEngine
from stallscan.errors import BundleError, InputError, install
from stallscan.recordings.recording import Frames

Which = Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"]
PRECISIONS: dict[str, Precision] = {
    "openvino": "f32",
    "openvino-bf16": "bf16",
    "openvino-int8": "int8",
}
# Device files of a GPU that torch may be able to use: NVIDIA's driver, AMD's, and WSL's.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class Engine(Protocol):
    """The interface of every engine."""

    @property
    def name(self) -> str:
        """Name of the engine, as `choose` takes it."""

    def logit(self, pixels: Frames) -> float:
        """Return the logit of a clip, uint8 (T, S, S, C), made with the bundle's clip settings."""

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Yield the logit of each clip in order, None for None; reads a bounded number ahead."""


class Chosen(NamedTuple):
    """The engines of a bundle, one for each of its `members`, and why they were chosen.

    All nets run on the same engine, which `name` names; members of the baseline run on
    `FeatureEngine` whatever was chosen, because they have no net.
    """

    name: str
    reason: str
    engines: tuple[Engine, ...]


def choose(model: Bundle | Ensemble, which: Which = "auto", reason: str = "requested") -> Chosen:
    """Open the engines that run a bundle or the members of an ensemble.

    ``auto`` uses torch if it is installed and can use a GPU; otherwise OpenVINO in f32 if every
    member has a usable export; otherwise torch on the CPU. `reason` says why another one is chosen.

    Raises
    ------
    InputError
        If the engine is not installed, or the processor does not support it.
    BundleError
        If a bundle has no usable export for the engine, or its weights do not fit its net.
    """
    if all(member.spec.net.is_feature_model for member in model.members):
        return Chosen("features", "the model has no net", tuple(map(FeatureEngine, model.members)))
    if which == "auto":
        return _automatic(model)
    if which == "torch":
        return _torch(model, reason)
    return _openvino(model, which, reason)


def has_torch() -> bool:
    """Return whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def _automatic(model: Bundle | Ensemble) -> Chosen:
    if has_torch() and _may_have_gpu():
        from stallscan.engines import torch_engine

        if torch_engine.has_gpu():
            return _torch(model, "a GPU is available")
    try:
        reason = "no GPU is available, so OpenVINO runs the net on the processor"
        return _openvino(model, "openvino", reason)
    except (BundleError, InputError, ImportError) as error:
        return _torch(model, str(error))


def _may_have_gpu() -> bool:
    """Return whether a GPU driver is present, without the seconds that importing torch takes."""
    return any(Path(name).exists() for name in _GPU_DEVICES) or bool(shutil.which("nvidia-smi"))


def _torch(model: Bundle | Ensemble, reason: str) -> Chosen:
    if not has_torch():
        raise InputError(
            f"PyTorch is not installed, but the torch engine is needed ({reason}). Run: "
            f"{install('torch')}"
        )
    from stallscan.engines.torch_engine import TorchEngine

    engines: tuple[Any, ...] = _open(model, TorchEngine)
    devices = {each.device.type for each in engines if not isinstance(each, FeatureEngine)}
    return Chosen("torch", f"on {devices.pop()}; {reason}", engines)


def _openvino(model: Bundle | Ensemble, which: Which, reason: str) -> Chosen:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    def opened(net: Bundle) -> Engine:
        return OpenVinoEngine.of(net, PRECISIONS[which])

    return Chosen(which, reason, _open(model, opened))


def _open(model: Bundle | Ensemble, open_net: Callable[[Bundle], Engine]) -> tuple[Engine, ...]:
    """Open the engine of each member; `open_net` opens that of a net."""
    return tuple(
        FeatureEngine(member) if member.spec.net.is_feature_model else open_net(member)
        for member in model.members
    )
