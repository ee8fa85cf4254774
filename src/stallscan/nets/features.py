"""The baseline: measured features, a linear model and small nets on them. It needs no torch.

`measures` measures the features of a clip. The logit is the mean of a logistic regression, which
carries over best to recordings unlike those of training, and of a few nets with one hidden layer,
which find what features say together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.nets.measures import DESCRIPTIONS, FEATURES, TINY

F64 = NDArray[np.float64]

# Formats of the values; the others are written with two decimals.
_SHARES = ("dark_", "dim_in_all", "bright_in_all", "own_dark", "own_bright")
# Inverse regularisation strengths to choose from, strongest regularisation first.
_C_VALUES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Chosen: the small nets need this many recordings of each label, or they only repeat the linear
# model.
_FEWEST_FOR_NETS = 100
_HIDDEN, _NETS, _DECAY = 32, 5, 3.0
# A net stops after more passes than this without a better held-out tenth; scikit-learn's defaults.
_PATIENCE, _MOST_PASSES, _BETTER = 10, 200, 1e-4
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
    recordings: Sequence[int] | NDArray[np.int64] | None = None,
) -> FeatureModel:
    """Fit the model.

    Five-fold cross-validation chooses the regularisation of the logistic regression with the
    highest average precision; the stronger one wins a tie. Each of the small nets stops when a
    tenth of the recordings that it holds out is not predicted better any more. All clips of a
    recording are on the same side.

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
    recordings : sequence of int, optional
        (N,), the number of the recording that each clip is of, where there are several augmented
        clips of each. By default, each clip is of a recording of its own.

    Raises
    ------
    InputError
        If there are fewer than two flowing or two stalled recordings, or if the shapes do not
        match.
    """
    labels = np.asarray(labels, np.int64)
    if features.shape != (len(labels), len(FEATURES)):
        raise InputError(
            f"features of shape {features.shape} do not match {len(labels)} labels and "
            f"{len(FEATURES)} features"
        )
    numbers = np.arange(len(labels)) if recordings is None else np.asarray(recordings)
    _, first, of = np.unique(numbers, return_index=True, return_inverse=True)
    kinds = labels[first]  # (recordings,)
    flowing, stalled = int((kinds == 0).sum()), int((kinds == 1).sum())
    fewest = min(flowing, stalled)
    if fewest < 2:
        raise InputError(
            "the net features needs at least 2 flowing and 2 stalled recordings, there are "
            f"{flowing} and {stalled}. Add labelled recordings"
        )
    middle, spread = features.mean(0, np.float64), features.std(0, dtype=np.float64)
    spread[spread < TINY] = 1.0  # a constant feature carries no information
    inputs = np.clip((features - middle) / spread, -_FARTHEST, _FARTHEST)
    weight = (labels == 0).sum() / (labels == 1).sum() if stalled_weight is None else stalled_weight
    clips = _Clips(inputs, labels, of, kinds)
    linear, bias = _fit_linear(clips, seed, weight)
    nets = _fit_nets(clips, seed, weight) if fewest >= _FEWEST_FOR_NETS else _no_nets()
    arrays = (middle, spread, linear, bias, *nets)
    return FeatureModel(*(np.asarray(array, np.float32) for array in arrays))


class _Clips(NamedTuple):
    """N clips of R recordings, one or several of each."""

    inputs: F64  # (N, F), standardised
    labels: NDArray[np.int64]  # (N,)
    of: NDArray[np.int64]  # (N,), the recording of each clip, 0..R - 1
    kinds: NDArray[np.int64]  # (R,), the label of each recording

    def sides(self, held_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the clips of all other recordings, and those of the held-out ones."""
        is_held_out = np.isin(self.of, held_out)  # (N,)
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _fit_linear(clips: _Clips, seed: int, stalled_weight: float) -> tuple[F64, F64]:
    """Fit the logistic regression; return its weights (F,) and bias (1,)."""
    # Imported here because only fitting needs scikit-learn, which is slow to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    def model(strength: float) -> LogisticRegression:
        weights = {0: 1.0, 1: stalled_weight}
        return LogisticRegression(C=strength, class_weight=weights, max_iter=1000)

    inputs, labels, _, kinds = clips
    drawn = StratifiedKFold(
        min(5, int(np.bincount(kinds).min())), shuffle=True, random_state=seed
    ).split(kinds, kinds)
    folds = [clips.sides(held_out) for _, held_out in drawn]
    scores = [
        cross_val_score(model(value), inputs, labels, cv=folds, scoring="average_precision").mean()
        for value in _C_VALUES
    ]
    best = model(_C_VALUES[int(np.argmax(scores))]).fit(inputs, labels)
    return best.coef_[0], best.intercept_


def _fit_nets(clips: _Clips, seed: int, stalled_weight: float) -> tuple[F64, F64, F64, F64]:
    """Fit the small nets; return the arrays of `FeatureModel` from ``hidden`` on."""
    nets = [_fit_net(clips, seed + number, stalled_weight) for number in range(_NETS)]
    hidden, hidden_bias, output, output_bias = (
        np.array(arrays) for arrays in zip(*nets, strict=True)
    )
    return hidden, hidden_bias, output[:, 0], output_bias[:, 0]


def _fit_net(clips: _Clips, seed: int, stalled_weight: float) -> tuple[F64, F64, F64, F64]:
    """Fit a small net; return its layers as (H, F), (H,), (1, H) and (1,).

    Passes are counted here, because scikit-learn would hold out clips, not recordings.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    # One generator, from which each pass draws another order.
    random = np.random.RandomState(seed)
    numbers = np.arange(len(clips.kinds))
    _, held_out = train_test_split(
        numbers, test_size=0.1, stratify=clips.kinds, random_state=random
    )
    learn, check = clips.sides(held_out)
    weights = np.where(clips.labels == 1, stalled_weight, 1.0)  # (N,)
    net = MLPClassifier((_HIDDEN,), alpha=_DECAY, learning_rate_init=2e-3, random_state=random)
    best, layers, waited = -math.inf, list[F64](), 0
    for _ in range(_MOST_PASSES):
        net.partial_fit(
            clips.inputs[learn], clips.labels[learn], classes=[0, 1], sample_weight=weights[learn]
        )
        share = net.score(clips.inputs[check], clips.labels[check], weights[check])
        waited = 0 if share >= best + _BETTER else waited + 1
        if share > best:
            best, layers = share, [array.T.copy() for array in (*net.coefs_, *net.intercepts_)]
        if waited > _PATIENCE:
            break
    hidden, output, hidden_bias, output_bias = layers
    return hidden, hidden_bias, output, output_bias


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
