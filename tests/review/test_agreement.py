import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import cohen_kappa_score

from stallscan.review.agreement import accuracy, as_table, kappa, pairs
from stallscan.review.answers import Given


def given(**answers):
    """Return the answers of each reviewer, one letter per recording; a blank is no answer."""
    words = {"s": "stalled", "f": "flowing", "u": "unsure", "x": "unscorable", "b": "broken"}
    return [
        Given(number, f"{place}.mp4", reviewer, words[letter], "2026-01-01T00:00:00Z")
        for number, (reviewer, letters) in enumerate(answers.items())
        for place, letter in enumerate(letters)
        if letter != " "
    ]


def test_kappa_is_that_of_scikit_learn():
    (pair,) = pairs(given(bob="sffsfsu f", ann="sfssffsff"))
    # The seventh is unsure and the eighth missing for bob.
    assert (pair.first, pair.second, pair.both) == ("ann", "bob", 7)
    assert pair.agreement == pytest.approx(5 / 7)
    expected = cohen_kappa_score(list("sfssfff"), list("sffsfsf"))
    assert pair.kappa == pytest.approx(expected)
    assert -1 <= pair.low < pair.kappa < pair.high <= 1


def test_the_last_answer_of_a_reviewer_counts():
    corrected = given(ann="s") + given(bob="f") + given(bob="s")
    (pair,) = pairs(corrected)
    assert (pair.both, pair.agreement) == (1, 1.0)


def test_each_pair_is_compared_and_undefined_kappas_are_none():
    every = pairs(given(ann="ffff", bob="ffff", eve="    s", zoe="uxb "))
    assert [(pair.first, pair.second) for pair in every] == [
        ("ann", "bob"),
        ("ann", "eve"),
        ("ann", "zoe"),
        ("bob", "eve"),
        ("bob", "zoe"),
        ("eve", "zoe"),
    ]
    assert (every[0].both, every[0].agreement, every[0].kappa) == (4, 1.0, None)
    assert (every[1].both, every[1].agreement, every[1].kappa) == (0, None, None)
    assert pairs(given(ann="sf")) == []


def test_the_table_shows_each_pair_and_names_as_they_are():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_table(pairs(given(**{"[red]ann": "sfsf", "bob": "sfff", "eve": "    s"}))))
    shown = console.export_text()
    assert "[red]ann and bob" in shown
    assert "75 %" in shown
    assert "0.50" in shown
    assert shown.count("not defined") == 2


def test_full_agreement_on_few_recordings_is_not_certain():
    (few,) = pairs(given(ann="sffff", bob="sffff"))
    (many,) = pairs(given(ann="sffff" * 40, bob="sffff" * 40))
    assert few.kappa == few.high == many.kappa == many.high == 1.0
    assert few.low < 0.6 < many.low < 1.0


def test_the_interval_contains_the_true_kappa():
    rng = np.random.default_rng(3)
    shares = np.array([0.045, 0.015, 0.015, 0.925])  # of the four pairs of answers
    true, trials, inside = float(kappa(shares)), 60, 0
    for counts in rng.multinomial(100, shares, trials):
        ours, theirs = ("".join(map(str.__mul__, pattern, counts)) for pattern in ("ssff", "sfsf"))
        (pair,) = pairs(given(ann=ours, bob=theirs))
        inside += pair.kappa is not None and pair.low <= true <= pair.high
    assert inside >= 0.88 * trials


def test_accuracy_against_known_labels():
    known = {f"{place}.mp4": place < 4 for place in range(9)} | {"unseen.mp4": True}
    measured = accuracy(given(ann="sssfffsfu"), known)
    assert (measured.stalled, measured.true_stalled) == (4, 3)
    assert (measured.flowing, measured.true_flowing) == (4, 3)
    # Clopper & Pearson of 3 in 4.
    assert measured.sensitivity == pytest.approx((0.75, 0.1941, 0.9937), abs=1e-4)
    assert measured.specificity == pytest.approx(measured.sensitivity)


def test_accuracy_without_a_kind_is_none():
    measured = accuracy(given(ann="ss"), {"0.mp4": True, "9.mp4": False})
    assert measured.sensitivity.value == 1.0
    assert (measured.specificity, measured.flowing) == (None, 0)
    assert accuracy([], {"0.mp4": True}).sensitivity is None
