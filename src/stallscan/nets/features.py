"""The baseline without a learned net: what a biologist would measure in a clip, and a linear model.

The vessel is the bright ridge in the middle of the outlined region. Its light is read along that
ridge only, and divided by its own mean over a stretch of the vessel: what is left, the profile, is
the pattern of cells (below 0 dark, above 0 bright). Of a vessel that runs through the depths only
a part is sharp in any one frame, so every pixel of the ridge has its own frames in focus.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stallscan.errors import InputError
from stallscan.nets.measures import FEATURES, TINY, compute

# How a value is written; all others are plain numbers with two digits.
_FORMS = {
    "dark_in_all": "{:.0%}",
    "dark_stays": "{:.0%}",
    "dark_in_mean": "{:.0%}",
    "frames_in_focus": "{:.1f}",
    "length": "{:.0f} px",
    "width": "{:.1f} px",
    "inside_outside": "{:.0%}",
}

_C_VALUES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class FeatureNet(nn.Module):
    """The features and one neuron; it has to be fitted, not trained by steps.

    Parameters
    ----------
    channels : int
        2: grey and mask, as `clip` makes them with ``grey+mask``; on the scale 0..1, so a recipe
        gives mean 0 and standard deviation 1.

    Raises
    ------
    InputError
        If there are other channels.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels != 2:
            raise InputError(
                f"the net features takes 2 channels (grey, mask), the settings have {channels}; "
                "set clip.channels to grey+mask and net.mean and net.std to two values each"
            )
        self.register_buffer("middle", torch.zeros(len(FEATURES)))
        self.register_buffer("spread", torch.ones(len(FEATURES)))
        self.fc = nn.Linear(len(FEATURES), 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Give the logits (N,) of clips (N, 2, T, S, S)."""
        return self.score(compute(clips))

    def score(self, features: Tensor) -> Tensor:
        """Give the logits (N,) of features (N, F), as `compute` measures them."""
        logits: Tensor = self.fc((features - self.middle) / self.spread).squeeze(1)
        return logits


def fit(
    net: FeatureNet,
    features: NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int64],
    seed: int,
    stalled_weight: float | None = None,
) -> None:
    """Fit the linear model, in place: logistic regression on standardised features.

    How strongly the weights are held small is chosen by five-fold cross-validation, for the
    highest average precision; the stronger hold wins a tie.

    Parameters
    ----------
    net : FeatureNet
        Its middle, spread and last layer are set.
    features : ndarray
        float32 (N, F), from `compute`.
    labels : sequence of int
        (N,), 0 flowing, 1 stalled.
    seed : int
        For the folds.
    stalled_weight : float or None
        How much a stalled clip counts, a flowing one counting 1; None is n_flowing / n_stalled.

    Raises
    ------
    InputError
        If there are fewer than two flowing or two stalled clips, or features of another number.
    """
    # Only fitting needs scikit-learn, which takes long to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    labels = np.asarray(labels, np.int64)
    if features.shape != (len(labels), len(FEATURES)):
        raise InputError(
            f"features of shape {features.shape} do not fit {len(labels)} labels and "
            f"{len(FEATURES)} features"
        )
    fewest = int(min((labels == 0).sum(), (labels == 1).sum()))
    if fewest < 2:
        raise InputError(
            "the features need at least 2 flowing and 2 stalled clips to be fitted, there are "
            f"{(labels == 0).sum()} and {(labels == 1).sum()}"
        )
    middle, spread = features.mean(0, np.float64), features.std(0, dtype=np.float64)
    spread[spread < TINY] = 1.0  # a feature that is the same everywhere tells nothing
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
    """Say in one sentence what spoke most for the call.

    Parameters
    ----------
    net : FeatureNet
        Fitted.
    features : ndarray
        float32 (F,), of one clip.
    stalled : bool or None
        The call to be explained; None takes the sign of the logit.

    Returns
    -------
    str
        The one or two features with the largest contribution (weight times standardised value)
        towards the call, with their values and what is usual (the mean of the clips fitted on).
    """
    middle, spread, weight = (
        tensor.detach().cpu().numpy().reshape(-1)
        for tensor in (net.middle, net.spread, net.fc.weight)
    )
    shares = weight * (features - middle) / spread
    if stalled is None:
        stalled = bool(shares.sum() + net.fc.bias.item() > 0)
    towards = shares if stalled else -shares
    first, second = np.argsort(-towards, kind="stable")[:2]
    # A second reason that is far smaller than the first would only distract.
    chosen = [first, second] if towards[second] > 0.3 * towards[first] > 0 else [first]
    reasons = [_reason(int(index), features, middle) for index in chosen]
    call = "stalled" if stalled else "flowing"
    if towards[first] <= 0:
        return f"called {call} although no feature speaks for it; the least against: {reasons[0]}"
    return f"called {call} mostly because {' and '.join(reasons)}"


def _reason(index: int, features: NDArray[np.float32], middle: NDArray[np.float32]) -> str:
    name, words = FEATURES[index]
    value, usual = (_written(name, float(row[index])) for row in (features, middle))
    return f"{words} is {value} (usual: {usual})"


def _written(name: str, value: float) -> str:
    if name == "brightness":
        return f"{math.exp(value):.0%} of white"
    return _FORMS.get(name, "{:.2f}").format(value)
