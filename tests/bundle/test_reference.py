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
    """Scores calibrated at `PREVALENCE`, of recordings of which another share is stalled."""
    random = np.random.default_rng(seed)
    stalled = random.random(count) < prevalence
    # Two normal distributions a distance of 3 apart: their log-odds are 3 times the place.
    place = random.normal(np.where(stalled, 1.5, -1.5))
    odds = 3 * place + np.log(PREVALENCE / (1 - PREVALENCE))
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


def test_a_recording_like_those_of_the_training_is_not_remarked(reference):
    said = [reference.outliers(Traits(*row)) for row in _traits(2000, 2).itertuples(index=False)]
    assert sum(map(bool, said)) <= 20  # 1 %


def test_a_recording_far_from_all_is_named_with_its_value_and_range(reference):
    odd = Traits(*[50.0] * len(Traits._fields))._replace(grey_middle=93.0)
    assert reference.outliers(odd).startswith("middle grey level: 93, in training ")


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.6])
def test_like_recordings_raise_no_doubt_whatever_share_of_them_is_stalled(reference, prevalence):
    for seed in range(10, 20):
        scores = _scores(400, seed, prevalence)
        found = _compare(reference, _traits(400, seed), scores)
        assert found.doubts == ()
        assert found.figures["scores"]["at_prevalence"] == pytest.approx(prevalence, abs=0.1)


def test_darker_recordings_raise_a_doubt_that_says_what_and_how_far(reference):
    found = _compare(reference, _traits(100, 3, grey_high=-12), _scores(100, 3))
    assert len(found.doubts) == 1
    assert found.doubts[0].startswith("bright grey level (95 %): ")
    assert found.figures["traits"]["grey_high"]["outside_98"] > 0.3
    assert found.figures["traits"]["grey_low"]["outside_98"] < 0.1


def test_scores_that_no_share_of_stalled_ones_explains_raise_a_doubt(reference):
    undecided = np.random.default_rng(4).uniform(0.2, 0.6, 300)
    found = _compare(reference, _traits(300, 4), undecided)
    assert len(found.doubts) == 1
    assert found.doubts[0].startswith("scores: ")


def test_few_recordings_are_measured_but_not_judged(reference):
    found = _compare(reference, _traits(5, 5, light=100), [0.4] * 5)
    assert found.doubts == ()
    assert found.figures["traits"]["light"]["outside_98"] == 1


def test_nothing_measured_is_nothing_said(reference):
    nothing = _compare(reference, _traits(0, 0), [])
    assert nothing.doubts == ()
    without = Reference.of(pd.DataFrame(), _scores(50, 0))
    assert without.traits == {}
    assert _compare(without, _traits(50, 0, light=100), _scores(50, 6)).doubts == ()
