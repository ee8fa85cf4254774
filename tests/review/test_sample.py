from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from stallscan.review.answers import Given
from stallscan.review.run import Item
from stallscan.review.sample import finite, judge, sample_size
from stallscan.scores.intervals import wilson


def _items(calls):
    return [Item(f"{n}.mp4", Path("x.mp4"), call, "", 0.5, 0.5) for n, call in enumerate(calls)]


def _answers(answers):
    return {n: Given(n + 1, f"{n}.mp4", "ann", answer, "") for n, answer in answers.items()}


def test_only_the_answered_beginning_of_the_random_order_counts():
    items = _items(["flowing", "stalled", "flowing", "stalled", "review", "flowing"])
    order = [5, 1, 4, 0, 2, 3]
    # 2 was answered too, in another order, but 0 comes first.
    answers = _answers({5: "stalled", 1: "flowing", 4: "stalled", 2: "stalled", 3: "flowing"})
    found = judge(order, items, answers, 0.03)
    assert (found.calls, found.checked, found.other) == (5, 2, 1)
    assert (found.wrong.value, found.missed.value, found.alarms.value) == (1.0, 1.0, 1.0)
    assert found.complete == ()
    answers |= _answers({0: "unsure"})
    found = judge(order, items, answers, 0.03)
    assert (found.checked, found.other) == (4, 2)
    # What can be checked is checked, so there is nothing more to do.
    assert (found.needed, found.is_enough) == (4, True)
    assert found.complete == ("wrong", "missed", "alarms")
    whole = judge(order, items, answers | _answers({0: "flowing"}), 0.03)
    assert (whole.checked, whole.wrong.value) == (5, 0.8)
    assert whole.wrong.high - whole.wrong.low < 1e-3  # nothing is left to chance
    assert whole.is_enough


def test_nothing_is_estimated_without_answers_or_calls():
    found = judge([0, 1], _items(["flowing", "stalled"]), {}, 0.03)
    assert (found.checked, found.wrong, found.missed, found.is_enough) == (0, None, None, False)
    found = judge([0], _items([""]), _answers({0: "stalled"}), 0.03)
    assert (found.calls, found.needed, found.is_enough) == (0, 0, False)


@pytest.mark.parametrize("within", [0.02, 0.03, 0.05])
@pytest.mark.parametrize("population", [40, 1000, 10**5])
def test_the_sample_is_the_smallest_that_is_large_enough(within, population):
    size = sample_size(within, population)
    widths = [
        float(max(found.high - found.value, found.value - found.low))
        for found in (finite(0.1 * n, n, population) for n in (size, size - 1))
    ]
    assert widths[0] <= within < widths[1]
    # The textbook's p (1 - p) (z / w)^2, and its form for small populations
    plain = 0.09 * (1.96 / within) ** 2
    plain /= 1 + plain / population
    assert plain <= size <= 1.5 * plain + 2  # Wilson's interval reaches further up than down


def test_more_wrong_calls_need_a_larger_sample():
    items = _items(["flowing"] * 2000)
    half = _answers({n: ("stalled", "flowing")[n % 2] for n in range(40)})
    assert judge(range(2000), items, half, 0.05).needed > 1.5 * sample_size(0.05, 2000)
    few = {n: half[n] for n in range(10)}  # too few to tell
    assert judge(range(2000), items, few, 0.05).needed == sample_size(0.05, 2000)


def test_the_interval_of_a_large_population_is_wilsons():
    assert finite(7, 50, 10**9) == pytest.approx(wilson(7, 50), rel=1e-6)


@pytest.mark.parametrize(("population", "size"), [(100, 60), (500, 200), (1000, 700)])
def test_the_interval_covers_the_share_of_a_finite_run(population, size):
    part = np.arange(size + 1)
    found = finite(part, np.full(size + 1, size), population)
    held = [
        hypergeom.pmf(part, population, wrong, size)[
            (found.low * population <= wrong + 1e-6) & (wrong <= found.high * population + 1e-6)
        ].sum()
        for wrong in range(1, population // 3)
    ]
    assert 0.945 <= np.mean(held) <= 0.96
    plain = wilson(part, size)
    assert (found.high - found.low < plain.high - plain.low).all()


def test_a_narrow_interval_is_not_taken_for_a_complete_check():
    count = 20_000
    items = _items(["flowing"] * count)
    answers = _answers(dict.fromkeys(range(count - 500), "flowing"))
    found = judge(range(count), items, answers, 0.03)
    assert found.wrong.high - found.wrong.low < 1e-3
    assert found.complete == ("alarms",)  # there are none


def test_a_small_run_with_unclear_recordings_ends():
    items = _items(["flowing"] * 30 + ["stalled"] * 10)
    answers = _answers({n: "unsure" if n % 4 == 0 else items[n].call for n in range(40)})
    found = judge(range(40), items, answers, 0.02)
    assert (found.calls, found.checked, found.other, found.needed) == (40, 30, 10, 30)
    assert found.is_enough
    assert not judge(range(40), items, {n: answers[n] for n in range(20)}, 0.02).is_enough
    assert not judge(range(40), items, _answers(dict.fromkeys(range(40), "unsure")), 0.02).is_enough
