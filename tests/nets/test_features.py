from dataclasses import replace

import numpy as np
import pytest

from stallscan.errors import InputError
from stallscan.nets import features
from stallscan.nets.features import FeatureModel
from stallscan.nets.measures import DESCRIPTIONS, FEATURES, measure
from tests.nets.test_measures import draw

NAMES = list(FEATURES)
WORDS = DESCRIPTIONS


def test_the_fit_separates_an_easy_set_and_explains_it():
    labels = [row % 2 for row in range(24)]
    clips = [draw(moving=not label, noise=0.1, seed=n) for n, label in enumerate(labels)]
    measured = np.stack([measure(clip) for clip in clips])
    model = features.fit(measured, labels, seed=0)
    assert ((model.score(measured) > 0) == np.array(labels)).all()
    again = FeatureModel.of(model.weights)
    assert (again.score(measured) == model.score(measured)).all()
    assert features.explain(model, measured[1]).startswith("called stalled ")
    assert features.explain(model, measured[0]).startswith("called flowing ")


def test_small_nets_find_what_two_features_say_together():
    random = np.random.default_rng(0)
    measured = np.zeros((1200, len(FEATURES)), np.float32)
    measured[:, 3:5] = random.standard_normal((1200, 2))
    labels = (measured[:, 3] * measured[:, 4] > 0).astype(int)
    model = features.fit(measured[:1000], labels[:1000], seed=0)
    assert len(model.output) == 5
    called = model.score(measured[1000:]) > 0
    assert (called == labels[1000:]).mean() > 0.7  # a linear model is at chance
    support = model.support(measured[1000])
    assert support.shape == (len(FEATURES),)


def test_few_clips_get_the_linear_model_alone():
    random = np.random.default_rng(0)
    measured = random.standard_normal((60, len(FEATURES))).astype(np.float32)
    model = features.fit(measured, [0, 1] * 30, seed=0)
    assert model.output.shape[0] == 0
    expected = ((measured - model.middle) / model.spread) @ model.weight + model.bias[0]
    np.testing.assert_allclose(model.score(measured), expected, atol=1e-4)


def test_copies_of_a_recording_are_no_evidence():
    """Features tell recordings apart, but not the classes: copies alone make them look good."""
    random = np.random.default_rng(0)
    labels = np.arange(240) % 2
    clips = random.standard_normal((240, len(FEATURES)))
    clips = clips + 0.01 * random.standard_normal((4, *clips.shape))  # (copies, recordings, F)
    measured = clips.reshape(-1, len(FEATURES)).astype(np.float32)
    recordings, labels = np.tile(np.arange(240), 4), np.tile(labels, 4)
    fooled = features.fit(measured, labels, 0)
    honest = features.fit(measured, labels, 0, recordings=recordings)
    # The strongest regularisation and the earliest stop are best where nothing is to be learned.
    assert np.linalg.norm(honest.weight) < 0.7 * np.linalg.norm(fooled.weight)
    silent = {"weight": np.zeros_like(honest.weight), "bias": np.zeros_like(honest.bias)}
    honest_nets, fooled_nets = (
        np.abs(replace(model, **silent).score(measured)).mean() for model in (honest, fooled)
    )
    assert honest_nets < 0.7 * fooled_nets
    few = recordings < 120  # 60 of each label, 240 clips
    few_fitted = features.fit(measured[few], labels[few], 0, recordings=recordings[few])
    assert len(few_fitted.output) == 0


def test_the_least_is_counted_in_recordings():
    measured = np.zeros((6, len(FEATURES)), np.float32)
    with pytest.raises(InputError, match="2 and 1"):
        features.fit(measured, [0, 0, 0, 0, 1, 1], 0, recordings=[0, 1, 0, 1, 2, 2])


def test_a_stalled_clip_that_counts_more_gets_a_higher_logit():
    random = np.random.default_rng(0)
    measured = np.zeros((60, len(FEATURES)), np.float32)
    measured[:, 3] = random.standard_normal(60)
    labels = [0] * 45 + [1] * 15
    logits = [
        features.fit(measured, labels, seed=0, stalled_weight=weight).score(measured).mean()
        for weight in (1.0, None, 10.0)
    ]
    assert logits == sorted(logits)
    assert logits[0] < logits[2] - 1


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, len(FEATURES)), [0, 0, 0, 1], "3 and 1"),
        ((4, 3), [0, 0, 1, 1], "4 labels"),
        ((5, len(FEATURES)), [0, 0, 1, 1], "4 labels"),
    ],
)
def test_what_cannot_be_fitted_is_refused(shape, labels, message):
    with pytest.raises(InputError, match=message):
        features.fit(np.zeros(shape, np.float32), labels, seed=0)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_of_other_features_are_refused(change):
    weights = dict(_model_with().weights)
    if change == "missing":
        del weights["bias"]
    if change == "unknown":
        weights["fc.weight"] = weights["bias"]
    if change == "shape":
        weights["middle"] = weights["middle"][:17]
    with pytest.raises(ValueError, match=r"contain|shape"):
        FeatureModel.of(weights)


def _model_with(**weights):
    count = len(FEATURES)
    values = np.zeros(count, np.float32)
    middle, spread = np.zeros(count, np.float32), np.full(count, 0.1, np.float32)
    for name, weight in weights.items():
        values[NAMES.index(name)] = weight
    middle[NAMES.index("dark_in_all")] = 0.2
    middle[NAMES.index("same_5_1")] = 0.45
    empty = np.zeros((0, 0), np.float32)
    return FeatureModel(
        middle, spread, values, np.zeros(1, np.float32), np.zeros((0, 0, count), np.float32),
        empty, empty, np.zeros(0, np.float32),
    )  # fmt: skip


def _values(**values):
    row = np.zeros(len(FEATURES), np.float32)
    for name, value in values.items():
        row[NAMES.index(name)] = value
    return row


def test_explain_names_the_largest_contributions():
    net = _model_with(dark_in_all=1.0, same_5_1=0.8, change_light=-0.1)
    sentence = features.explain(net, _values(dark_in_all=0.62, same_5_1=0.91))
    assert sentence.startswith("called stalled ")
    assert f"{WORDS['dark_in_all']} is 62% (usual: 20%)" in sentence
    assert f"{WORDS['same_5_1']} is 0.91 (usual: 0.45)" in sentence
    assert WORDS["change_light"] not in sentence


def test_explain_omits_a_weak_second_reason():
    sentence = features.explain(_model_with(same_5_1=1.0), _values(same_5_1=0.05))
    assert sentence.startswith("called flowing ")
    assert sentence.endswith(f"{WORDS['same_5_1']} is 0.05 (usual: 0.45)")


def test_explain_follows_the_call_of_another_threshold():
    net, row = _model_with(dark_in_all=1.0, same_5_1=1.0), _values(dark_in_all=0.3, same_5_1=0.2)
    called = features.explain(net, row)
    assert called.startswith("called flowing ")
    assert WORDS["same_5_1"] in called
    other = features.explain(net, row, stalled=True)
    assert other.startswith("called stalled ")
    assert WORDS["dark_in_all"] in other
    row = _values(dark_in_all=0.1, same_5_1=0.2)
    # No feature contributes to stalled.
    assert features.explain(net, row, stalled=True).startswith("called stalled although ")
