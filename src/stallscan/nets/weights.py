"""Weights that a training starts from: published ones, those of a file, or those of a bundle."""

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

# torchvision's weights, by the net that takes them.
KINETICS: dict[str, Any] = {
    "r3d_18": torchvision_video.R3D_18_Weights.KINETICS400_V1,
    "mc3_18": torchvision_video.MC3_18_Weights.KINETICS400_V1,
    "r2plus1d_18": torchvision_video.R2Plus1D_18_Weights.KINETICS400_V1,
}
IMAGENET: dict[str, Any] = {
    "densenet121_3d": DenseNet121_Weights.IMAGENET1K_V1,
    "quarters_resnet18": ResNet18_Weights.IMAGENET1K_V1,
}

# What the last layers are called: here, and in torchvision's DenseNet.
HEADS = ("fc.", "class_layers.", "classifier.")

# torchvision names a dense layer's parts norm1, its published files norm.1, and MONAI layers.norm1.
_DENSE_LAYER = re.compile(r"(denselayer\d+)\.(norm|conv)\.?([12])\.")


def differing(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """List tensors that only one of two state dicts has, or that differ in shape; empty: none."""
    wrong = sorted(
        key
        for key in wanted.keys() | state.keys()
        if key not in wanted or key not in state or wanted[key].shape != state[key].shape
    )
    return ", ".join(wrong[:5]) + (" and more" if len(wrong) > 5 else "")


def fitted(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring a state dict to the names of a net and inflate 2-D kernels; heads are left out."""
    fitted = {
        # Files older than PyTorch 0.4.1 do not count batches, which only momentum: null would use.
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
            length = wanted[key].shape[2]
            value = value[:, :, None].repeat(1, 1, length, 1, 1) / length
        fitted[key] = value
    return fitted


def channels_hint(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Say so if the first layers differ in nothing but their channels."""
    first = next((key for key in wanted if wanted[key].ndim >= 4), None)
    if first is None or first not in state or state[first].ndim != wanted[first].ndim:
        return ""
    theirs, ours = state[first].shape[1], wanted[first].shape[1]
    if theirs == ours:
        return ""
    return f" (these weights take {theirs} channels, and clip.channels and net.mean make {ours})"


def download(name: str, source: str) -> tuple[dict[str, Tensor], str]:
    """Fetch torchvision's weights of that source, and say what they are."""
    offered, dataset = {
        "kinetics": (KINETICS, "Kinetics-400"),
        "imagenet": (IMAGENET, "ImageNet"),
    }[source]
    if name not in offered:
        raise InputError(
            f"there are no {dataset} weights for {name}, only for {', '.join(offered)}; "
            "use source: none"
        )
    weights = offered[name]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the {dataset} weights of {name} could not be downloaded ({error}); download "
            f"{weights.url} elsewhere and give it as 'source: file' with 'file: PATH', or "
            "start from random weights with 'source: none'"
        ) from error
    return state, f"the {dataset} weights of {name}"


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict (.safetensors, .pt, .pth) without executing anything in it.

    Raises
    ------
    InputError
        If there is no such file, or it is no state dict.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a state dict (.safetensors, .pt, .pth)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state: Any = read_plain(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path}: not readable as a state dict ({error}); save the net's state_dict() by itself"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"{path}: holds something else than a state dict, which has names and tensors only; "
            "save the net's state_dict() by itself"
        )
    return state


def read_plain(path: Path) -> Any:
    """Read what torch saved, as far as it is tensors and plain values; nothing is executed.

    Raises
    ------
    ValueError
        If it holds more, or cannot be read. The message is the reason, without the path.
    """
    try:
        with warnings.catch_warnings():
            # Of some pickles torch says that they are unusual, before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Torch's own message advises to execute what is in the file.
        reason = "it is damaged, or holds more than tensors and plain values"
    # Whatever torch's parser stumbles over in a damaged file is raised as it comes.
    except Exception as error:  # noqa: BLE001
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise ValueError(reason)
