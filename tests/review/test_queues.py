from pathlib import Path

import pytest

from stallscan.review.answers import Given
from stallscan.review.queues import Queues
from stallscan.review.run import Item

PATH = Path("x.mp4")
ITEMS = [
    Item("sure.mp4", PATH, "flowing", "", 0.01, 0.4),
    Item("near.mp4", PATH, "stalled", "", 0.45, 0.4),
    Item("left.mp4", PATH, "review", "", 0.99, 0.4),
    Item("none.mp4", PATH, "unscorable"),
    Item("high.mp4", PATH, "stalled", "", 0.97, 0.4),
]
ANSWERS = [
    Given(1, "near.mp4", "ann", "stalled", ""),
    Given(2, "near.mp4", "bob", "flowing", ""),
    Given(3, "high.mp4", "bob", "stalled", ""),
    Given(4, "gone.mp4", "bob", "stalled", ""),
]


def _current(answers):
    current = {}
    for given in answers:
        current.setdefault(given.filename, {})[given.reviewer] = given
    return current


def _names(reviewer, order, answers=ANSWERS):
    numbers = Queues(ITEMS).arrange(_current(answers), reviewer, order)
    return [ITEMS[number].filename[:4] for number in numbers]


@pytest.mark.parametrize(
    ("reviewer", "order", "expected"),
    [
        ("eve", "uncertain", ["left", "near", "high", "sure", "none"]),
        ("ann", "uncertain", ["left", "high", "sure", "none"]),
        ("bob", "stalled", ["left", "sure", "none"]),
        ("ann", "unseen", ["sure", "left", "none"]),
        ("ann", "disagreed", ["near"]),
        ("eve", "disagreed", ["near"]),
        ("bob", "disagreed", []),  # who has had the last word
    ],
)
def test_each_order(reviewer, order, expected):
    assert _names(reviewer, order) == expected


@pytest.mark.parametrize("order", ["unseen", "disagreed"])
def test_blind_reviewers_do_not_see_which_recordings_are_of_one_mouse(order):
    items = [Item(f"{number}.mp4", PATH) for number in range(40)]
    said = ("stalled", "flowing")
    answers = {"unseen": [], "disagreed": said}[order]
    current = {
        item.filename: {f"r{n}": Given(n, item.filename, f"r{n}", answer, "")}
        | {"x": Given(n - 9, item.filename, "x", said[1 - n], "")}
        for item in items
        for n, answer in enumerate(answers)
    }
    assert Queues(items).arrange(current, "me", order) == list(range(40))
    blind = Queues(items, blind=True)
    assert blind.arrange(current, "me", order) == list(blind.random) != list(range(40))


def test_the_most_useful_first_are_uncertain_ones_and_suspected_stalls():
    scores = [0.41, 0.42, 0.43, 0.44, 0.45, 0.99, 0.98, 0.01]
    items = [Item(f"{score}", PATH, "stalled", "", score, 0.4) for score in scores]
    numbers = Queues(items).arrange({}, "ann", "uncertain")
    assert set(numbers[:3]) == {0, 1, 5}
    assert set(numbers[3:6]) == {2, 3, 6}
    assert numbers[-1] == 7


def test_folders_take_turns_in_the_uncertain_order():
    scores = {"a/1": 0.41, "a/2": 0.42, "a/3": 0.43, "b/1": 0.7, "c/1": 0.1}
    items = [Item(name, PATH, "stalled", "", score, 0.4) for name, score in scores.items()]
    items.append(Item("d/1", PATH, "unscorable"))
    names = [items[n].filename for n in Queues(items).arrange({}, "ann", "uncertain")]
    assert {name[0] for name in names[:3]} == {"a", "b", "c"}
    assert names[3:] == ["a/2", "a/3", "d/1"]


def test_the_random_order_is_the_same_for_everyone():
    everything = _names("ann", "random", [])
    assert sorted(everything) == sorted(_names("eve", "random", []))
    assert everything == _names("bob", "random", [])
    assert [name for name in everything if name != "near"] == _names("ann", "random")


def _easy(items, answers=(), blind=False):
    numbers = Queues(items).easy(_current(answers), "ann", "unseen", blind)
    return [items[number].filename[:4] for number in numbers]


def test_the_contact_sheet_has_the_surest_flows_and_nothing_that_blind_reviewers_could_infer():
    items = [*ITEMS, Item("more.mp4", PATH, "flowing", "", 0.005, 0.4)]
    assert _easy(items) == ["more", "sure"]
    assert _easy(items, [Given(1, "more.mp4", "ann", "flowing", "")]) == ["sure"]
    in_order = [item.filename[:4] for item in items]
    assert _easy(items, blind=True) == in_order
    assert _easy([Item(item.filename, PATH) for item in items]) == in_order
