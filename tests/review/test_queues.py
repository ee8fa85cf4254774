import pytest

from stallscan.review.answers import Given
from stallscan.review.queues import arrange
from stallscan.review.run import Item

ITEMS = [
    Item("sure.mp4", None, "flowing", "", 0.01, 0.4),
    Item("near.mp4", None, "stalled", "", 0.45, 0.4),
    Item("left.mp4", None, "review", "", 0.99, 0.4),
    Item("none.mp4", None, "unscorable"),
    Item("high.mp4", None, "stalled", "", 0.97, 0.4),
]
ANSWERS = [
    Given(1, "near.mp4", "ann", "stalled", ""),
    Given(2, "near.mp4", "bob", "flowing", ""),
    Given(3, "high.mp4", "bob", "stalled", ""),
    Given(4, "gone.mp4", "bob", "stalled", ""),
]


def _names(reviewer, order, answers=ANSWERS):
    return [ITEMS[number].filename[:4] for number in arrange(ITEMS, answers, reviewer, order)]


@pytest.mark.parametrize(
    ("reviewer", "order", "expected"),
    [
        ("eve", "uncertain", ["left", "near", "high", "sure", "none"]),
        ("ann", "uncertain", ["left", "high", "sure", "none"]),
        ("bob", "stalled", ["left", "sure", "none"]),
        ("ann", "unseen", ["sure", "left", "none"]),
        ("ann", "disagreed", ["near"]),
    ],
)
def test_each_order(reviewer, order, expected):
    assert _names(reviewer, order) == expected


def test_the_random_order_is_the_same_for_everyone():
    everything = _names("ann", "random", [])
    assert sorted(everything) == sorted(_names("eve", "random", []))
    assert everything == _names("bob", "random", [])
    assert [name for name in everything if name != "near"] == _names("ann", "random")
