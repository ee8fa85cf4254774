"""The bundle: a folder with a trained model and everything needed to use it.

The folder contains ``bundle.json`` (settings of outline, clip and net, calibration, threshold,
provenance), ``weights.safetensors`` and the model card, ``README.md``. Pickles are never read. An
ensemble has its member bundles in ``members/`` instead of weights. Exports to other engines are in
``openvino/`` (`engines.exports`).

torch is imported only to read the weights.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
from numpy.typing import ArrayLike, NDArray

from stallscan import files
from stallscan.bundle import learned
from stallscan.bundle.spec import (
    DECISIVE_FIELDS,
    DESCRIPTIVE_FIELDS,
    WEIGHTS_NAME,
    BundleSpec,
    EnsembleSpec,
    Floats,
    combine,
)
from stallscan.errors import BundleError
from stallscan.scores.calibration import shift
from stallscan.scores.thresholds import on_grid, threshold_at

if TYPE_CHECKING:
    from torch import Tensor

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Bundle:
    """A validated bundle; its weights are read from disk on first use."""

    path: Path
    spec: BundleSpec

    @functools.cached_property
    def weights(self) -> "dict[str, Tensor]":
        """The state dict of the net, on the CPU.

        Raises
        ------
        BundleError
            If the file cannot be read, or has changed since the bundle was loaded.
        """
        import safetensors.torch

        return self._read(safetensors.torch.load)

    @functools.cached_property
    def arrays(self) -> "dict[str, NDArray[np.float32]]":
        """The weights as numpy arrays, for a model that needs no torch; errors as for `weights`."""
        import safetensors.numpy

        return self._read(safetensors.numpy.load)

    def _read(self, load: Callable[[bytes], Loaded]) -> Loaded:
        path = self.path / WEIGHTS_NAME
        try:
            content = path.read_bytes()
            # A training run may have replaced the bundle since it was loaded.
            if files.sha256_of(content) != self.spec.weights_sha256:
                raise BundleError(
                    f"{path}: changed after the bundle was opened. Run the command again"
                )
            return load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise BundleError(f"{path}: cannot be read ({error}). Copy the bundle again") from None

    @functools.cached_property
    def learned(self) -> frozenset[str]:
        """Short hashes of the recordings it has learned from; empty if unknown. See `learned`."""
        return learned.read(self.path)

    @property
    def label(self) -> str:
        """Name and first hex digits of the hash of the weights, as in predictions.csv."""
        return f"{self.spec.name}@{self.spec.weights_sha256[:8]}"

    @property
    def members(self) -> "tuple[Bundle, ...]":
        """The bundles whose nets score a recording: for a single bundle, itself."""
        return (self,)

    def score(self, logits: ArrayLike) -> Floats:
        """Compute scores, float64 (N,), 0..1, from the logits of its net, float (1, N)."""
        return self.spec.calibration.score(np.asarray(logits)[0])

    def at(self, prevalence: float) -> "Bundle":
        """Return a copy with calibration and threshold for another share of stalled recordings.

        Raises
        ------
        BundleError
            If the bundle does not contain its validation scores.
        """
        before = self.spec.prevalence
        threshold = threshold_at(_validation_scores(self), before, prevalence)
        update = {
            "calibration": self.spec.calibration.at(before, prevalence),
            "threshold": threshold,
            "prevalence": prevalence,
        }
        return replace(self, spec=self.spec.model_copy(update=update))


@dataclass(frozen=True)
class Ensemble:
    """Several validated bundles that make one call together."""

    path: Path
    spec: EnsembleSpec
    members: tuple[Bundle, ...]

    @functools.cached_property  # read for every row of a prediction
    def label(self) -> str:
        """Name and first hex digits of a hash of everything that determines its calls."""
        # The ensemble's spec contains the hashes of the weights of its members.
        specs = [self.spec.model_dump_json(include=DECISIVE_FIELDS)]
        specs += [
            member.spec.model_dump_json(exclude=DESCRIPTIVE_FIELDS) for member in self.members
        ]
        return f"{self.spec.name}@{files.sha256_of(''.join(specs).encode())[:8]}"

    def score(self, logits: ArrayLike) -> Floats:
        """Compute scores, float64 (N,), 0..1, from its members' logits, float (members, N)."""
        pairs = zip(self.members, np.asarray(logits), strict=True)
        scores = np.stack([member.score([row]) for member, row in pairs])  # (members, N)
        return combine(self.spec, scores)

    def at(self, prevalence: float) -> "Ensemble":
        """Return a copy with calibration and thresholds for another share of stalled recordings.

        Raises
        ------
        BundleError
            If the ensemble (for a vote: a member) does not contain its validation scores.
        """
        before = self.spec.prevalence
        if self.spec.is_vote:
            # Members score at their own prevalence, so shift the new thresholds back to it.
            thresholds = [
                shift(member.at(prevalence).spec.threshold, prevalence, member.spec.prevalence)
                for member in self.members
            ]
            update: dict[str, Any] = {"thresholds": tuple(map(on_grid, map(float, thresholds)))}
        else:
            update = {
                "calibration": self.spec.calibration.at(before, prevalence),
                "threshold": threshold_at(_validation_scores(self), before, prevalence),
            }
        update["prevalence"] = prevalence
        return replace(self, spec=self.spec.model_copy(update=update))


def _validation_scores(model: Bundle | Ensemble) -> Floats:
    if model.spec.reference is None or not model.spec.reference.scores:
        raise BundleError(
            f"{model.path}: does not contain its validation scores, so no threshold can be chosen "
            "for another prevalence. Predict without --prevalence (stack: with --prevalence "
            "bundle), then choose a threshold on labels with 'stallscan decide'"
        )
    return np.asarray(model.spec.reference.scores)
