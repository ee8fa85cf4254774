"""Initial weights for a training: downloaded, or read from a file, without executing anything."""

import pickle
import re
import urllib.error
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import DenseNet121_Weights, ResNet18_Weights
from torchvision.models import video as torchvision_video

from stallscan.errors import InputError

# torchvision's weights by the net that accepts them.
KINETICS: dict[str, Any] = {
    "r3d_18": torchvision_video.R3D_18_Weights.KINETICS400_V1,
    "mc3_18": torchvision_video.MC3_18_Weights.KINETICS400_V1,
    "r2plus1d_18": torchvision_video.R2Plus1D_18_Weights.KINETICS400_V1,
}
IMAGENET: dict[str, Any] = {
    "densenet121_3d": DenseNet121_Weights.IMAGENET1K_V1,
    "quarters_resnet18": ResNet18_Weights.IMAGENET1K_V1,
}

# Names of the last layers, here and in torchvision's DenseNet.
HEADS = ("fc.", "class_layers.", "classifier.")

# A layer inside a dense layer is norm1 in torchvision, norm.1 in its weight files, and layers.norm1
# in MONAI.
_DENSE_LAYER = re.compile(r"(denselayer\d+)\.(norm|conv)\.?([12])\.")


def differing(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """List the tensors that are missing from one of two state dicts or differ in shape."""
    different = sorted(
        key
        for key in wanted.keys() | state.keys()
        if key not in wanted or key not in state or wanted[key].shape != state[key].shape
    )
    return ", ".join(different[:5]) + (" and more" if len(different) > 5 else "")


def fitted(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of a net and inflate 2-D kernels; heads are dropped."""
    fitted = {
        # Files older than PyTorch 0.4.1 lack these counts, which only momentum=None would use.
        key: value
        for key, value in wanted.items()
        if key.endswith("num_batches_tracked")
    }
    for key, value in state.items():
        if key.startswith(HEADS):
            continue
        if key not in wanted:
            key = _DENSE_LAYER.sub(r"\1.layers.\2\3.", key)
        if key in wanted and value.ndim == 4 and wanted[key].ndim == 5:
            # (O, I, h, w) -> (O, I, length, h, w), divided to keep the response to a still clip.
            length = wanted[key].shape[2]
            value = value[:, :, None].repeat(1, 1, length, 1, 1) / length
        fitted[key] = value
    return fitted


def channels_hint(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Return a hint if the first layers differ in channels, else an empty string."""
    first = next((key for key in wanted if wanted[key].ndim >= 4), None)
    if first is None or first not in state or state[first].ndim != wanted[first].ndim:
        return ""
    theirs, ours = state[first].shape[1], wanted[first].shape[1]
    if theirs == ours:
        return ""
    return f" (these weights take {theirs} channels, clip.channels and net.mean make {ours})"


def download(name: str, source: str) -> tuple[dict[str, Tensor], str]:
    """Download torchvision's weights; return the state dict and a description of it."""
    offered, dataset = {
        "kinetics": (KINETICS, "Kinetics-400"),
        "imagenet": (IMAGENET, "ImageNet"),
    }[source]
    if name not in offered:
        raise InputError(
            f"there are no {dataset} weights for {name}, only for {', '.join(offered)}. "
            "Use source: none"
        )
    weights = offered[name]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the {dataset} weights of {name} could not be downloaded ({error}). Download "
            f"{weights.url} on another machine and set 'source: file' and 'file: PATH', or "
            "start from random weights with 'source: none'"
        ) from error
    return state, f"the {dataset} weights of {name}"


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict (.safetensors, .pt, .pth) without executing anything in it.

    Raises
    ------
    InputError
        If the file does not exist or is not a state dict.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a state dict (.safetensors, .pt, .pth)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state: Any = read_plain(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path}: not readable as a state dict ({error}). Save only the net's state_dict()"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"{path}: not a state dict, which maps names to tensors. Save only the net's "
            "state_dict()"
        )
    return state


def read_plain(path: Path) -> Any:
    """Read a file that torch saved, if it holds only tensors and plain values; execute nothing.

    Raises
    ------
    ValueError
        If it holds anything else or cannot be read. The message is the reason, without the path.
    """
    try:
        with warnings.catch_warnings():
            # torch warns of some unusual pickles before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises executing the file's content.
        reason = "it is damaged or holds more than tensors and plain values"
    # A damaged file can raise anything in torch's parser.
    except Exception as error:  # noqa: BLE001
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise ValueError(reason)
