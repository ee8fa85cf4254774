"""The baseline: measured features, a linear model and small nets on them. It needs no torch.

`measures` measures the features of a clip. The logit is the mean of a logistic regression, which
carries over best to recordings unlike those of training, and of a few nets with one hidden layer,
which find what features say together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.nets.measures import DESCRIPTIONS, FEATURES, TINY

F64 = NDArray[np.float64]

# Formats of the values; the others are written with two decimals.
_SHARES = ("dark_", "dim_in_all", "bright_in_all", "own_dark", "own_bright")
# Inverse regularisation strengths to choose from, strongest regularisation first.
_C_VALUES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Chosen: the small nets need this many clips of each label, or they only repeat the linear model.
_FEWEST_FOR_NETS = 100
_HIDDEN, _NETS, _DECAY = 32, 5, 3.0
# Standardised values beyond this are cut: in no training clip a feature was that unusual.
_FARTHEST = 6.0


@dataclass(frozen=True)
class FeatureModel:
    """A fitted model of F features; the field names are those in the weights file.

    Attributes
    ----------
    middle, spread : ndarray
        float32 (F,): mean and standard deviation of each feature in training.
    weight, bias : ndarray
        float32 (F,) and (1,): the logistic regression.
    hidden, hidden_bias : ndarray
        float32 (K, H, F) and (K, H): hidden layers of K nets, with rectified units; K may be 0.
    output, output_bias : ndarray
        float32 (K, H) and (K,): their output layers.
    """

    middle: NDArray[np.float32]
    spread: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    output_bias: NDArray[np.float32]

    @classmethod
    def of(cls, weights: dict[str, NDArray[np.float32]]) -> "FeatureModel":
        """Build the model from the weights of a bundle.

        Raises
        ------
        ValueError
            If they are not those of a model of today's features.
        """
        if set(weights) != {field.name for field in fields(cls)}:
            raise ValueError(f"they contain {', '.join(sorted(weights)) or 'nothing'}")
        model = cls(**weights)
        features = len(FEATURES)
        nets, units = (*model.output.shape, 0, 0)[:2]  # of another rank: refused below
        expected = {
            "middle": (features,), "spread": (features,), "weight": (features,), "bias": (1,),
            "hidden": (nets, units, features), "hidden_bias": (nets, units),
            "output": (nets, units), "output_bias": (nets,),
        }  # fmt: skip
        for name, shape in expected.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} has shape {weights[name].shape}, expected {shape}")
        return model

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The arrays by their names, for the weights file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def score(self, features: NDArray[np.float32]) -> F64:
        """Compute the logits, float64 (N,), of features, float (N, F)."""
        return self._score_standardised(self._standardise(features))

    def _standardise(self, features: NDArray[np.float32]) -> F64:
        standardised = (features.astype(np.float64) - self.middle) / self.spread
        return np.clip(standardised, -_FARTHEST, _FARTHEST)

    def _score_standardised(self, inputs: F64) -> F64:
        linear: F64 = inputs @ self.weight.astype(np.float64) + self.bias[0]  # (N,)
        if not len(self.output):
            return linear
        # (N, K, H)
        units = np.maximum(np.einsum("nf,khf->nkh", inputs, self.hidden) + self.hidden_bias, 0)
        nets = np.einsum("nkh,kh->nk", units, self.output) + self.output_bias  # (N, K)
        return np.asarray((linear + nets.mean(axis=1)) / 2)

    def support(self, features: NDArray[np.float32]) -> F64:
        """Compute what each feature of one clip, float (F,), adds to the logit, float64 (F,).

        That is how much the logit falls if the feature has its mean over the training clips.
        """
        inputs = self._standardise(features[None])  # (1, F)
        without = np.repeat(inputs, len(FEATURES), axis=0)
        np.fill_diagonal(without, 0)
        return np.asarray(self._score_standardised(inputs) - self._score_standardised(without))


def fit(
    features: NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int64],
    seed: int,
    stalled_weight: float | None = None,
) -> FeatureModel:
    """Fit the model.

    Five-fold cross-validation chooses the regularisation of the logistic regression with the
    highest average precision; the stronger one wins a tie. Each of the small nets stops when a
    tenth of the clips that it holds out is not predicted better any more.

    Parameters
    ----------
    features : ndarray
        float32 (N, F), from `measures.measure`.
    labels : sequence of int
        (N,), 0 flowing, 1 stalled.
    seed : int
        Of the splits and of the nets.
    stalled_weight : float or None
        Weight of a stalled clip relative to a flowing one; None means n_flowing / n_stalled.

    Raises
    ------
    InputError
        If there are fewer than two flowing or two stalled clips, or if the shapes do not match.
    """
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
    inputs = np.clip((features - middle) / spread, -_FARTHEST, _FARTHEST)
    weight = (labels == 0).sum() / (labels == 1).sum() if stalled_weight is None else stalled_weight
    linear, bias = _fit_linear(inputs, labels, seed, weight)
    nets = _fit_nets(inputs, labels, seed, weight) if fewest >= _FEWEST_FOR_NETS else _no_nets()
    arrays = (middle, spread, linear, bias, *nets)
    return FeatureModel(*(np.asarray(array, np.float32) for array in arrays))


def _fit_linear(
    inputs: F64, labels: NDArray[np.int64], seed: int, stalled_weight: float
) -> tuple[F64, F64]:
    """Fit the logistic regression; return its weights (F,) and bias (1,)."""
    # Imported here because only fitting needs scikit-learn, which is slow to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    def model(strength: float) -> LogisticRegression:
        weights = {0: 1.0, 1: stalled_weight}
        return LogisticRegression(C=strength, class_weight=weights, max_iter=1000)

    fewest = int(min((labels == 0).sum(), (labels == 1).sum()))
    folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=seed)
    scores = [
        cross_val_score(model(value), inputs, labels, cv=folds, scoring="average_precision").mean()
        for value in _C_VALUES
    ]
    best = model(_C_VALUES[int(np.argmax(scores))]).fit(inputs, labels)
    return best.coef_[0], best.intercept_


def _fit_nets(
    inputs: F64, labels: NDArray[np.int64], seed: int, stalled_weight: float
) -> tuple[F64, F64, F64, F64]:
    """Fit the small nets; return the arrays of `FeatureModel` from ``hidden`` on."""
    from sklearn.neural_network import MLPClassifier

    weights = np.where(labels == 1, stalled_weight, 1.0)
    hidden, hidden_bias, output, output_bias = [], [], [], []
    for number in range(_NETS):
        net = MLPClassifier(
            (_HIDDEN,), alpha=_DECAY, learning_rate_init=2e-3, early_stopping=True,
            random_state=seed + number,
        ).fit(inputs, labels, sample_weight=weights)  # fmt: skip
        hidden.append(net.coefs_[0].T)
        hidden_bias.append(net.intercepts_[0])
        output.append(net.coefs_[1][:, 0])
        output_bias.append(net.intercepts_[1][0])
    return np.array(hidden), np.array(hidden_bias), np.array(output), np.array(output_bias)


def _no_nets() -> tuple[F64, F64, F64, F64]:
    return np.zeros((0, 0, len(FEATURES))), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0)


def explain(model: FeatureModel, features: NDArray[np.float32], stalled: bool | None = None) -> str:
    """Explain a call in one sentence by the features that contributed most to it.

    Parameters
    ----------
    model : FeatureModel
        Fitted.
    features : ndarray
        float32 (F,), of one clip.
    stalled : bool or None
        The call to explain; None uses the sign of the logit.

    Returns
    -------
    str
        Names the one or two features that support the call most (`FeatureModel.support`), with
        their values and their means over the training clips.
    """
    support = model.support(features)
    if stalled is None:
        stalled = bool(model.score(features[None])[0] > 0)
    if not stalled:
        support = -support
    first, second = np.argsort(-support, kind="stable")[:2]
    # A second reason that is far weaker than the first would only distract.
    chosen = [first, second] if support[second] > 0.3 * support[first] > 0 else [first]
    reasons = [_reason(int(index), features, model.middle) for index in chosen]
    call = "stalled" if stalled else "flowing"
    if support[first] <= 0:
        return (
            f"called {call} although no feature supports it. The weakest evidence against it: "
            f"{reasons[0]}"
        )
    return f"called {call} mostly because {' and '.join(reasons)}"


def _reason(index: int, features: NDArray[np.float32], middle: NDArray[np.float32]) -> str:
    name = FEATURES[index]
    value, usual = (_format(name, float(row[index])) for row in (features, middle))
    return f"{DESCRIPTIONS[name]} is {value} (usual: {usual})"


def _format(name: str, value: float) -> str:
    if name == "frames_in_focus":
        return f"{math.exp(value):.1f}"
    return f"{value:.0%}" if name.startswith(_SHARES) else f"{value:.2f}"
