"""The bundle: a trained model as a folder that carries all it needs to be used.

``bundle.json`` (settings of outline, clip and net, calibration, threshold, provenance),
``weights.safetensors``, and ``README.md``, the model card. No pickle is ever read.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
from pydantic import Field
from torch import Tensor

from stallscan import files
from stallscan.clip import ClipSettings
from stallscan.decide import Calibration
from stallscan.errors import BundleError, InputError, SettingsError
from stallscan.outline import OutlineSettings
from stallscan.recipe import NetSettings
from stallscan.settings import Settings

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "README.md"
SHIPPED = Path(__file__).with_name("bundles")
DEFAULT = "default"


class BundleSpec(Settings):
    """What ``bundle.json`` holds.

    Attributes
    ----------
    format : int
        Number of this format.
    name : str
        What predictions call the bundle.
    outline, clip, net
        How a recording becomes a logit.
    calibration : Calibration
        How a logit becomes a score.
    threshold : float
        Stalled is called at or above this score.
    prevalence : float
        Share of stalled in the set that calibration and threshold were chosen on.
    frames : tuple of int
        Fewest and most frames of the recordings it was trained on.
    simulated : bool
        Whether all recordings it was trained on are simulated.
    weights_sha256 : str
        Hash of the weights file.
    metrics : dict
        On the validation part of the training data.
    provenance : dict
        Recipe, data hash, versions, seed.
    """

    format: Literal[1] = 1
    name: str
    outline: OutlineSettings
    clip: ClipSettings
    net: NetSettings
    calibration: Calibration
    threshold: float = Field(ge=0, le=1)
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool
    weights_sha256: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes
    ----------
    path : Path
        Its folder.
    spec : BundleSpec
    weights : dict
        Tensor by its name in the net's state dict.
    """

    path: Path
    spec: BundleSpec
    weights: dict[str, Tensor]

    @property
    def label(self) -> str:
        """Name and beginning of the weights' hash, as predictions give it."""
        return f"{self.spec.name}@{self.spec.weights_sha256[:8]}"


def save(folder: Path, spec: BundleSpec, weights: dict[str, Tensor], card: str) -> BundleSpec:
    """Write a bundle; one that stands at `folder` is replaced only when all is written.

    Parameters
    ----------
    folder : Path
        Where.
    spec : BundleSpec
        Without the weights' hash, which is filled in.
    weights : dict
        The net's state dict.
    card : str
        The model card, Markdown.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    files.make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        safetensors.torch.save_file(tensors, temporary / WEIGHTS_NAME)
        spec = spec.model_copy(update={"weights_sha256": files.sha256(temporary / WEIGHTS_NAME)})
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{folder}: the bundle could not be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return spec


def load(which: str | Path = DEFAULT) -> Bundle:
    """Read a bundle by the name of a shipped one or by its folder, and check it.

    Raises
    ------
    BundleError
        If it is not there, incomplete, of another format, or its weights are not those it was
        saved with.
    """
    folder = _folder(which)
    for name in (SPEC_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder}: not a bundle, {name} is missing; expected the folder 'bundle' that "
                "'stallscan train' writes into its run folder"
            )
    spec = _read_spec(folder / SPEC_NAME)
    if files.sha256(folder / WEIGHTS_NAME) != spec.weights_sha256:
        raise BundleError(
            f"{folder / WEIGHTS_NAME}: damaged or not of this bundle (its hash differs from the "
            f"one in {SPEC_NAME}); copy the bundle again"
        )
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS_NAME}: not readable ({error})") from None
    return Bundle(folder, spec, weights)


def _folder(which: str | Path) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(which) in shipped:
        return SHIPPED / which
    if Path(which).is_dir():
        return Path(which)
    raise BundleError(
        f"{which}: no such bundle; give the folder of one, or a shipped one by name "
        f"({', '.join(shipped) or 'none is shipped'})"
    )


def _read_spec(path: Path) -> BundleSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise BundleError(f"{path}: expected a JSON object")
        if content.get("format") != 1:
            raise BundleError(
                f"{path}: bundle format {content.get('format')!r}, this stallscan reads format 1; "
                "use the version of stallscan that wrote it"
            )
        return BundleSpec.parse(content, str(path))
    except (OSError, ValueError, SettingsError) as error:
        raise BundleError(f"{path}: not readable as a bundle ({error})") from None
