import pytest

from stallscan.review.pace import items_an_hour


def _times(*seconds):
    return [f"2026-01-01T10:{int(s) // 60:02}:{s % 60:06.3f}Z" for s in seconds]


def test_pauses_are_no_work():
    assert items_an_hour(_times(*range(0, 90, 3))) == pytest.approx(1200)
    with_lunch = [*range(0, 60, 3), *range(1800, 1860, 3)]
    assert items_an_hour(_times(*with_lunch)) == pytest.approx(1200)


def test_a_few_answers_have_no_rate():
    assert items_an_hour([]) is None
    assert items_an_hour(_times(0, 5, 600)) is None
