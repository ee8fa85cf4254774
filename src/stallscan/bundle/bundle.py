"""The bundle: a trained model as a folder that carries all it needs to be used.

``bundle.json`` (settings of outline, clip and net, calibration, threshold, provenance),
``weights.safetensors``, and ``README.md``, the model card. No pickle is ever read. An ensemble has
the bundles that it joins in ``members/`` instead of weights. Forms for other engines than torch lie
in ``openvino/`` (`engines.exports`).

Nothing here imports torch before the weights themselves are asked for.
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
    """A bundle, checked; its weights stay on disk until they are asked for.

    Attributes
    ----------
    path : Path
        Its folder.
    spec : BundleSpec
    """

    path: Path
    spec: BundleSpec

    @functools.cached_property
    def weights(self) -> "dict[str, Tensor]":
        """Tensor by its name in the net's state dict, on the CPU.

        Raises
        ------
        BundleError
            If the file is no longer there or readable, or is another one.
        """
        import safetensors.torch

        path = self.path / WEIGHTS_NAME
        try:
            content = path.read_bytes()
            # Perhaps a training has put another bundle there since this one was loaded.
            if files.sha256_of(content) != self.spec.weights_sha256:
                raise BundleError(f"{path}: has changed since the bundle was opened; start again")
            return safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise BundleError(f"{path}: not readable ({error}); copy the bundle again") from None

    @property
    def label(self) -> str:
        """Name and beginning of the weights' hash, as predictions give it."""
        return f"{self.spec.name}@{self.spec.weights_sha256[:8]}"

    @property
    def members(self) -> "tuple[Bundle, ...]":
        """Itself: all whose nets have to look at a recording."""
        return (self,)

    def score(self, logits: ArrayLike) -> Floats:
        """Make scores, float64 (N,), of the logits of each of `members`, float (1, N)."""
        return self.spec.calibration.score(np.asarray(logits)[0])

    def at(self, prevalence: float) -> "Bundle":
        """Read its scores, and choose its threshold anew, at another share of stalled.

        Raises
        ------
        BundleError
            If it does not know the scores of its validation part.
        """
        before = self.spec.prevalence
        threshold = threshold_at(_known_scores(self), before, prevalence)
        update = {
            "calibration": self.spec.calibration.at(before, prevalence),
            "threshold": threshold,
            "prevalence": prevalence,
        }
        return replace(self, spec=self.spec.model_copy(update=update))


@dataclass(frozen=True)
class Ensemble:
    """Several bundles that call together, in memory.

    Attributes
    ----------
    path : Path
        Its folder.
    spec : EnsembleSpec
    members : tuple of Bundle
    """

    path: Path
    spec: EnsembleSpec
    members: tuple[Bundle, ...]

    @functools.cached_property  # every row of a prediction has it
    def label(self) -> str:
        """Name and beginning of a hash of all that its calls follow from."""
        parts = [self.spec.model_dump_json(include=DECIDES)]
        # Their weights are among what the ensemble's own spec names.
        parts += [member.spec.model_dump_json(exclude=TELLS) for member in self.members]
        return f"{self.spec.name}@{files.sha256_of(''.join(parts).encode())[:8]}"

    def score(self, logits: ArrayLike) -> Floats:
        """Make scores, float64 (N,), of the logits of each of `members`, float (members, N)."""
        rows = zip(self.members, np.asarray(logits), strict=True)
        return combine(self.spec, np.stack([member.score([row]) for member, row in rows]))

    def at(self, prevalence: float) -> "Ensemble":
        """Read its scores, and choose its threshold or its members' anew, at another prevalence.

        Raises
        ------
        BundleError
            If the scores of a validation part are not known.
        """
        before = self.spec.prevalence
        if self.spec.is_vote:
            # Each member's score stays at its own prevalence, where its threshold is read, too.
            cuts = [
                on_grid(float(shift(each.at(prevalence).spec.threshold, prevalence, own)))
                for each, own in ((each, each.spec.prevalence) for each in self.members)
            ]
            update: dict[str, Any] = {"thresholds": tuple(cuts)}
        else:
            update = {
                "calibration": self.spec.calibration.at(before, prevalence),
                "threshold": threshold_at(_known_scores(self), before, prevalence),
            }
        update["prevalence"] = prevalence
        return replace(self, spec=self.spec.model_copy(update=update))


def _known_scores(model: Bundle | Ensemble) -> Floats:
    if model.spec.reference is None or not model.spec.reference.scores:
        raise BundleError(
            f"{model.path}: does not know the scores of its validation part, so no threshold for "
            "another prevalence can be chosen; predict without, and choose it on labels with "
            "'stallscan decide'"
        )
    return np.asarray(model.spec.reference.scores)
