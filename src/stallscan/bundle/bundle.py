"""The bundle: a trained model in a folder with everything needed to use it.

The folder holds ``bundle.json`` (settings of outline, clip and net, calibration, threshold,
provenance), ``weights.safetensors`` and the model card, ``README.md``. No pickle is ever read. An
ensemble has its member bundles in ``members/`` instead of weights. Exports to other engines are in
``openvino/`` (`engines.exports`).

torch is imported only when the weights are read.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stallscan import files
from stallscan.bundle.spec import (
    DECIDES,
    TELLS,
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


@dataclass(frozen=True)
class Bundle:
    """A checked bundle; its weights stay on disk until they are used."""

    path: Path
    spec: BundleSpec

    @functools.cached_property
    def weights(self) -> "dict[str, Tensor]":
        """State dict of the net, on the CPU.

        Raises
        ------
        BundleError
            If the file cannot be read, or has changed since the bundle was loaded.
        """
        import safetensors.torch

        path = self.path / WEIGHTS_NAME
        try:
            content = path.read_bytes()
            # A training may have replaced the bundle since it was loaded.
            if files.sha256_of(content) != self.spec.weights_sha256:
                raise BundleError(f"{path}: has changed since the bundle was opened. Start again")
            return safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise BundleError(f"{path}: not readable ({error}). Copy the bundle again") from None

    @property
    def label(self) -> str:
        """Name and first digits of the weights' hash, as written to predictions."""
        return f"{self.spec.name}@{self.spec.weights_sha256[:8]}"

    @property
    def members(self) -> "tuple[Bundle, ...]":
        """The bundles whose nets score a recording: only itself."""
        return (self,)

    def score(self, logits: ArrayLike) -> Floats:
        """Compute scores, float64 (N,), from the logits of its net, float (1, N)."""
        return self.spec.calibration.score(np.asarray(logits)[0])

    def at(self, prevalence: float) -> "Bundle":
        """Return the bundle recalibrated, with a new threshold, for another share of stalled.

        Raises
        ------
        BundleError
            If it does not contain its validation scores.
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
    """Several checked bundles that make one call together."""

    path: Path
    spec: EnsembleSpec
    members: tuple[Bundle, ...]

    @functools.cached_property  # read for every row of a prediction
    def label(self) -> str:
        """Name and first digits of a hash of everything that determines its calls."""
        # The ensemble's own spec includes the hashes of the members' weights.
        specs = [self.spec.model_dump_json(include=DECIDES)]
        specs += [member.spec.model_dump_json(exclude=TELLS) for member in self.members]
        return f"{self.spec.name}@{files.sha256_of(''.join(specs).encode())[:8]}"

    def score(self, logits: ArrayLike) -> Floats:
        """Compute scores, float64 (N,), from the logits of its members, float (members, N)."""
        rows = zip(self.members, np.asarray(logits), strict=True)
        return combine(self.spec, np.stack([member.score([row]) for member, row in rows]))

    def at(self, prevalence: float) -> "Ensemble":
        """Return the ensemble recalibrated for another share of stalled, with new thresholds.

        Raises
        ------
        BundleError
            If it, or for a vote a member, does not contain its validation scores.
        """
        before = self.spec.prevalence
        if self.spec.is_vote:
            # A member's scores remain at its own prevalence, so shift its new threshold back to it.
            cuts = [
                shift(member.at(prevalence).spec.threshold, prevalence, member.spec.prevalence)
                for member in self.members
            ]
            update: dict[str, Any] = {"thresholds": tuple(on_grid(float(cut)) for cut in cuts)}
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
            "for another prevalence. Predict without --prevalence, then choose a threshold on "
            "labels with 'stallscan decide'"
        )
    return np.asarray(model.spec.reference.scores)
