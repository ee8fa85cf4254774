"""Make a bundle from weights that were trained elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stallscan import files, runs
from stallscan.bundle import disk
from stallscan.bundle.spec import SPEC_NAME, BundleSpec
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.nets.weights import differing, read_state
from stallscan.recipes.recipe import Recipe
from stallscan.scores.calibration import Calibration
from stallscan.scores.thresholds import on_grid
from stallscan.settings import as_name
from stallscan.templates import render

# The published state dicts have this prefix in front of every name.
PREFIX = "cnn."
# Fewest and most frames of the third place's training recordings, and their share of stalled ones
# (docs/facts.md 2 and 4).
FRAMES, PREVALENCE = (17, 434), 0.089


def import_weights(
    state: Path, recipe: Recipe, out: Path, threshold: float = 0.5, prevalence: float = PREVALENCE
) -> BundleSpec:
    """Make a bundle from a state dict with torchvision's names.

    Parameters
    ----------
    state : Path
        .pt, .pth or .safetensors file. The names may have the prefix ``cnn.``, and the head must
        have one output. Code in the file is never executed.
    recipe : Recipe
        Its outline, clip and net settings become those of the bundle.
    out : Path
        Folder of the bundle. An existing bundle is replaced only by the same import.
    threshold : float
        Scores at or above this are called stalled, 0..1.
    prevalence : float
        Share of stalled recordings in the training data of the weights, above 0 and below 1.

    Raises
    ------
    InputError
        If the file cannot be read or does not match the recipe's net, or `out` contains another
        bundle.
    SettingsError
        If `threshold` or `prevalence` is out of range.
    """
    spec_path = out / SPEC_NAME
    files.refuse_foreign(spec_path, ['"imported_from": '], "that of imported weights")
    weights = read_state(state)
    if weights and all(name.startswith(PREFIX) for name in weights):
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    build.import_net(recipe.net.name)
    net = build.build(recipe.net)
    _load(net, weights, state, recipe)
    provenance = {
        **files.provenance(),
        "imported_from": state.name,
        "imported_sha256": files.sha256(state),
        "recipe": recipe.model_dump(mode="json"),
        "torch": torch.__version__,
    }
    content = {
        "name": as_name(state.stem),
        "outline": recipe.outline,
        "clip": recipe.clip,
        "net": recipe.net,
        # A plain sigmoid, because there are no validation scores to calibrate on.
        "calibration": Calibration(),
        "threshold": on_grid(threshold),
        "prevalence": prevalence,
        "frames": FRAMES,
        "simulated": False,
        "provenance": provenance,
    }
    spec = BundleSpec.parse(content, "imported weights")
    if before := runs.read_note(spec_path, "imported weights"):
        now = spec.model_dump(mode="json")
        runs.refuse_other(out, _settings(before), _settings(now), "imported weights")
    card = render("imported.md.j2", spec=spec) + "\n"
    return disk.save(out, spec, net.state_dict(), card)


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of bundle.json that two imports must share to be the same."""
    names = ("outline", "clip", "net", "threshold", "prevalence")
    return {
        **{name: spec.get(name) for name in names},
        "weights": spec["provenance"]["imported_sha256"],
    }


def _load(net: nn.Module, weights: dict[str, torch.Tensor], state: Path, recipe: Recipe) -> None:
    if different := differing(weights, net.state_dict()):
        raise InputError(
            f"{state}: does not match the net {recipe.net.name} with one output ({different} "
            "missing, unknown or of another shape). Name the right net with --net"
        )
    net.load_state_dict(weights)
