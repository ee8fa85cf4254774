from pathlib import Path

import pandas as pd
import pytest

from stallscan.errors import InputError
from stallscan.review.answers import Answers, New
from stallscan.review.known import Checks, Known, mix, read_known
from stallscan.review.labels import write_labels
from stallscan.review.run import Item, Run

LABELS = {number: number < 40 for number in range(300)}  # of 1,000


def _review(queue, checks, steps):
    """Answer what comes first, again and again; return what was answered."""
    answered = []
    for _ in range(steps):
        left = [number for number in queue if number not in answered]
        number = next(mix(left, checks, answered), None)
        if number is None:
            break
        answered.append(number)
    return answered


def test_the_mix_is_seeded_by_the_name_and_half_of_it_is_stalled():
    known = Known(LABELS, 1000, 0.1)
    ann, bob = known.for_reviewer("ann"), known.for_reviewer("bob")
    assert ann == Known(LABELS, 1000, 0.1).for_reviewer("ann")
    assert ann.items != bob.items
    assert len(ann.items) == len(set(ann.items)) == 100
    assert sum(LABELS[number] for number in ann.items) == 40  # all there are
    assert sum(LABELS[n] for n in Known(LABELS, 200).for_reviewer("Zoë").items) == 10


def test_a_tenth_of_what_is_seen_is_known_and_nothing_is_seen_twice():
    checks = Known(LABELS, 1000, 0.1).for_reviewer("ann")
    seen = _review(range(300, 1000), checks, 400)
    assert len(set(seen)) == 400
    assert 25 <= sum(number in LABELS for number in seen) <= 60
    assert [number for number in seen if number in LABELS] == list(
        checks.items[: 400 - sum(number >= 300 for number in seen)]
    )
    # What is fetched beforehand is what comes.
    left = [number for number in range(300, 1000) if number not in seen[:50]]
    ahead = mix(left, checks, seen[:50])
    assert [next(ahead) for _ in range(20)] == seen[50:70]


def test_a_queue_with_known_recordings_shows_each_once_and_then_ends():
    checks = Checks((3, 1, 9), (True, False, False, True, False, False))
    assert list(mix(range(5), checks, [])) == [3, 0, 1, 9, 2, 4]
    assert list(mix([], checks, [])) == []
    assert list(mix([0, 1], Checks(), [])) == [0, 1]


def _run(*names):
    return Run(Path("results"), tuple(Item(name, Path(name)) for name in names))


def test_labels_are_matched_by_name(tmp_path):
    table = pd.DataFrame({"filename": ["1.mp4", "x/2.mp4", "7.mp4"], "stalled": [1, 0, 1]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    known = read_known(tmp_path / "labels.csv", _run("0.mp4", "a/1.mp4", "x/2.mp4"), 0.5)
    assert known.labels == {1: True, 2: False}
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_known(tmp_path / "labels.csv", _run("other.mp4"))
    for share in (0, 0.6, float("nan")):
        with pytest.raises(InputError, match="--known-share"):
            read_known(tmp_path / "labels.csv", _run("1.mp4"), share)


def test_labels_leave_out_what_checked_the_reviewer(tmp_path):
    answers = Answers(tmp_path)
    answers.give_all(
        [
            New("token-01", "known.mp4", "ann", "flowing", is_check=True),
            New("token-02", "a.mp4", "ann", "stalled"),
            New("token-03", "b.mp4", "bob", "stalled", is_check=True),
            New("token-04", "b.mp4", "ann", "flowing"),  # ordinary for her
        ]
    )
    answers.give("token-05", "known.mp4", "ann", "stalled")  # corrected, still a check
    written = write_labels(tmp_path, tmp_path / "labels.csv")
    labels = pd.read_csv(tmp_path / "labels.csv").set_index("filename")
    assert labels["stalled"].to_dict() == {"a.mp4": 1, "b.mp4": 0}
    assert written.checks == 2
