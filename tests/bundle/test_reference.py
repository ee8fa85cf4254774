import numpy as np
import pandas as pd
import pytest

from stallscan.bundle.reference import WORDS, Reference, compare
from stallscan.clips.traits import Traits

PREVALENCE = 0.3


def _traits(count, seed, **moved):
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        {name: random.normal(50, 5, count) for name in Traits._fields}, columns=Traits._fields
    )
    for name, by in moved.items():
        table[name] += by
    return table


def _compare(reference, traits, scores):
    return compare(reference, PREVALENCE, traits.to_numpy(), scores)


def _scores(count, seed, prevalence=PREVALENCE):
    """Draw scores calibrated for `PREVALENCE`, of recordings with the given prevalence."""
    random = np.random.default_rng(seed)
    stalled = random.random(count) < prevalence
    # The log-odds of two unit normal distributions centred at -1.5 and 1.5 are 3 times the value.
    value = random.normal(np.where(stalled, 1.5, -1.5))
    odds = 3 * value + np.log(PREVALENCE / (1 - PREVALENCE))
    return 1 / (1 + np.exp(-odds))


@pytest.fixture(scope="module")
def reference():
    return Reference.of(_traits(3000, 0), _scores(1000, 1))


def test_the_reference_keeps_quantiles(reference):
    assert set(reference.traits) == set(WORDS)
    assert reference.traits["light"][4] == pytest.approx(50, abs=0.5)
    assert reference.traits["light"][-1] > 60
    assert list(reference.scores) == sorted(reference.scores)
    assert np.mean(reference.scores) == pytest.approx(PREVALENCE, abs=0.04)
    assert (reference.trained, reference.validated) == (3000, 1000)
    assert Reference.parse(reference.model_dump(mode="json"), "it") == reference


def test_a_recording_like_the_training_is_not_an_outlier(reference):
    texts = [reference.outliers(Traits(*row)) for row in _traits(2000, 2).itertuples(index=False)]
    assert sum(map(bool, texts)) <= 20  # 1 %


def test_an_outlier_is_named_with_its_value(reference):
    odd = Traits(*[50.0] * len(Traits._fields))._replace(grey_middle=93.0)
    assert reference.outliers(odd).startswith(f"{WORDS['grey_middle']}: 93")


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.6])
def test_similar_recordings_raise_no_doubt_at_any_prevalence(reference, prevalence):
    for seed in range(10, 20):
        scores = _scores(400, seed, prevalence)
        drift = _compare(reference, _traits(400, seed), scores)
        assert drift.doubts == ()
        assert drift.figures["scores"]["at_prevalence"] == pytest.approx(prevalence, abs=0.1)


def test_darker_recordings_raise_a_doubt_about_brightness(reference):
    drift = _compare(reference, _traits(100, 3, grey_high=-12), _scores(100, 3))
    assert len(drift.doubts) == 1
    assert drift.doubts[0].startswith(WORDS["grey_high"])
    assert drift.figures["traits"]["grey_high"]["outside_98"] > 0.3
    assert drift.figures["traits"]["grey_low"]["outside_98"] < 0.1


def test_an_ignored_trait_raises_no_doubt(reference):
    traits = _traits(100, 3, grey_high=-12)
    drift = compare(
        reference, PREVALENCE, traits.to_numpy(), _scores(100, 3), ignored=["grey_high"]
    )
    assert drift.doubts == ()
    assert "grey_high" not in drift.figures["traits"]


def test_scores_that_no_prevalence_explains_raise_a_doubt(reference):
    undecided = np.random.default_rng(4).uniform(0.2, 0.6, 300)
    drift = _compare(reference, _traits(300, 4), undecided)
    assert len(drift.doubts) == 1
    assert drift.doubts[0].startswith("scores")


def test_few_recordings_are_measured_but_not_judged(reference):
    drift = _compare(reference, _traits(5, 5, light=100), [0.4] * 5)
    assert drift.doubts == ()
    assert drift.figures["traits"]["light"]["outside_98"] == 1


def test_without_measurements_there_is_no_doubt(reference):
    nothing = _compare(reference, _traits(0, 0), [])
    assert nothing.doubts == ()
    without = Reference.of(pd.DataFrame(), _scores(50, 0))
    assert without.traits == {}
    assert _compare(without, _traits(50, 0, light=100), _scores(50, 6)).doubts == ()
