"""The baseline: features that a biologist would measure in a clip, and a linear model.

The vessel is the bright ridge in the middle of the outlined region. Its brightness is read along
the ridge and divided by its mean over a stretch of the vessel. The result, the profile, shows the
pattern of cells (dark below 0, bright above 0). In a frame only a part of a vessel that runs
obliquely in depth is in focus, so the frames in focus are determined for each pixel of the ridge.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stallscan.errors import InputError
from stallscan.nets.measures import FEATURES, TINY, compute

# Formats of the values; the others are written with two decimals.
_FORMS = {
    "dark_in_all": "{:.0%}",
    "dark_stays": "{:.0%}",
    "dark_in_mean": "{:.0%}",
    "frames_in_focus": "{:.1f}",
    "length": "{:.0f} px",
    "width": "{:.1f} px",
    "inside_outside": "{:.0%}",
}

# Inverse regularisation strengths to choose from, strongest regularisation first.
_C_VALUES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class FeatureNet(nn.Module):
    """The features and one neuron; `fit` sets its weights, there is no gradient training.

    Parameters
    ----------
    channels : int
        2: grey and mask, as `clip` makes them with ``grey+mask``. The features are measured on the
        scale 0..1, so recipes set mean 0 and standard deviation 1.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels != 2:
            raise InputError(
                f"the net features takes 2 channels (grey, mask), the settings have {channels}. "
                "Set clip.channels to grey+mask, and net.mean and net.std to two values each"
            )
        self.register_buffer("middle", torch.zeros(len(FEATURES)))
        self.register_buffer("spread", torch.ones(len(FEATURES)))
        self.fc = nn.Linear(len(FEATURES), 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (N,) of clips (N, 2, T, S, S)."""
        return self.score(compute(clips))

    def score(self, features: Tensor) -> Tensor:
        """Compute the logits (N,) of features (N, F) from `measures.compute`."""
        logits: Tensor = self.fc((features - self.middle) / self.spread).squeeze(1)
        return logits


def fit(
    net: FeatureNet,
    features: NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int64],
    seed: int,
    stalled_weight: float | None = None,
) -> None:
    """Fit the linear model in place: a logistic regression on standardised features.

    Five-fold cross-validation chooses the regularisation with the highest average precision; the
    stronger one wins a tie.

    Parameters
    ----------
    net : FeatureNet
        Its buffers (mean and standard deviation of each feature) and last layer are set.
    features : ndarray
        float32 (N, F), from `measures.compute`.
    labels : sequence of int
        (N,), 0 flowing, 1 stalled.
    seed : int
        Of the split into folds.
    stalled_weight : float or None
        Weight of a stalled clip relative to a flowing one; None means n_flowing / n_stalled.

    Raises
    ------
    InputError
        If there are fewer than two flowing or two stalled clips, or if the shapes do not match.
    """
    # Imported here because only fitting needs scikit-learn, which is slow to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    labels = np.asarray(labels, np.int64)
    if features.shape != (len(labels), len(FEATURES)):
        raise InputError(
            f"features of shape {features.shape} do not match {len(labels)} labels and "
            f"{len(FEATURES)} features"
        )
    fewest = int(min((labels == 0).sum(), (labels == 1).sum()))
    if fewest < 2:
        raise InputError(
            "the net features needs at least 2 flowing and 2 stalled clips, there are "
            f"{(labels == 0).sum()} and {(labels == 1).sum()}. Add labelled recordings"
        )
    middle, spread = features.mean(0, np.float64), features.std(0, dtype=np.float64)
    spread[spread < TINY] = 1.0  # a constant feature carries no information
    standardised = (features - middle) / spread
    weight = (labels == 0).sum() / (labels == 1).sum() if stalled_weight is None else stalled_weight
    folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=seed)

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight={0: 1.0, 1: weight}, max_iter=1000)

    scores = [
        cross_val_score(
            model(value), standardised, labels, cv=folds, scoring="average_precision"
        ).mean()
        for value in _C_VALUES
    ]
    best = model(_C_VALUES[int(np.argmax(scores))]).fit(standardised, labels)
    with torch.no_grad():
        net.middle.copy_(torch.from_numpy(middle))
        net.spread.copy_(torch.from_numpy(spread))
        net.fc.weight.copy_(torch.from_numpy(best.coef_))
        net.fc.bias.copy_(torch.from_numpy(best.intercept_))


def explain(net: FeatureNet, features: NDArray[np.float32], stalled: bool | None = None) -> str:
    """Explain a call in one sentence by the features that contributed most to it.

    Parameters
    ----------
    net : FeatureNet
        Fitted.
    features : ndarray
        float32 (F,), of one clip.
    stalled : bool or None
        The call to explain; None uses the sign of the logit.

    Returns
    -------
    str
        Names the one or two features with the largest contribution (weight times standardised
        value) to the call, with their values and their means over the training clips.
    """
    middle, spread, weight = (
        tensor.detach().cpu().numpy().reshape(-1)
        for tensor in (net.middle, net.spread, net.fc.weight)
    )
    contributions = weight * (features - middle) / spread  # (F,), positive towards stalled
    if stalled is None:
        stalled = bool(contributions.sum() + net.fc.bias.item() > 0)
    support = contributions if stalled else -contributions
    first, second = np.argsort(-support, kind="stable")[:2]
    # A second reason that is far weaker than the first would only distract.
    chosen = [first, second] if support[second] > 0.3 * support[first] > 0 else [first]
    reasons = [_reason(int(index), features, middle) for index in chosen]
    call = "stalled" if stalled else "flowing"
    if support[first] <= 0:
        return (
            f"called {call} although no feature supports it. The weakest evidence against it: "
            f"{reasons[0]}"
        )
    return f"called {call} mostly because {' and '.join(reasons)}"


def _reason(index: int, features: NDArray[np.float32], middle: NDArray[np.float32]) -> str:
    name, words = FEATURES[index]
    value, usual = (_format(name, float(row[index])) for row in (features, middle))
    return f"{words} is {value} (usual: {usual})"


def _format(name: str, value: float) -> str:
    if name == "brightness":
        return f"{math.exp(value):.0%} of white"
    return _FORMS.get(name, "{:.2f}").format(value)
