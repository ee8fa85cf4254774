import pytest

from stallscan.review.pace import items_an_hour


def test_pauses_are_no_work():
    assert items_an_hour([3] * 30) == pytest.approx(1200)
    assert items_an_hour([3] * 20 + [1740] + [3] * 20 + [None]) == pytest.approx(1200)


def test_slow_sheets_count_with_their_whole_time():
    # Twelve recordings in 140 s, saved at the same moment, then one that took 10 s.
    assert items_an_hour(([140 / 12] * 12 + [10]) * 3) == pytest.approx(3600 * 39 / 450)


def test_a_few_answers_have_no_rate():
    assert items_an_hour([]) is None
    assert items_an_hour([5, 7, 600, None]) is None
