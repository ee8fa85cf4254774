from pathlib import Path

import pandas as pd
import pytest

from stallscan.errors import InputError
from stallscan.review.answers import Answers, New
from stallscan.review.known import Checks, Known, mix, read_known
from stallscan.review.labels import write_labels
from stallscan.review.run import Item, Run

NUMBERS = {f"{number}.mp4": number for number in range(1000)}
LABELS = {f"{number}.mp4": number < 40 for number in range(300)}


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
    ann, bob = (Known(LABELS, 0.1).for_reviewer(name, NUMBERS) for name in ("ann", "bob"))
    assert ann == Known(LABELS, 0.1).for_reviewer("ann", NUMBERS)
    assert ann.items != bob.items
    assert len(ann.items) == len(set(ann.items)) == 100
    assert sum(number < 40 for number in ann.items) == 40  # all there are
    assert sum(number < 40 for number in ann.items[:50]) in range(12, 29)  # in no order
    fewer = {name: NUMBERS[name] for name in list(NUMBERS)[:300]}
    zoe = Known(LABELS, 0.1).for_reviewer("Zoë", fewer).items
    assert (len(zoe), sum(number < 40 for number in zoe)) == (30, 15)


def test_the_checks_stay_when_the_run_grows():
    names = [f"{mouse}/{number}.mp4" for mouse in "ab" for number in range(200)]
    later = names[200:]
    known = Known({name: number % 3 == 0 for number, name in enumerate(later)}, 0.2)
    before = known.for_reviewer("ann", {name: number for number, name in enumerate(later)})
    # The new mouse comes first in the table, so all numbers change.
    after = known.for_reviewer("ann", {name: number for number, name in enumerate(names)})
    assert (len(before.items), len(after.items)) == (40, 80)
    assert {later[number] for number in before.items} <= {names[number] for number in after.items}
    assert after.slots[:200] == before.slots


def test_a_tenth_of_what_is_seen_is_known_and_nothing_is_seen_twice():
    checks = Known(LABELS, 0.1).for_reviewer("ann", NUMBERS)
    seen = _review(range(300, 1000), checks, 400)
    assert len(set(seen)) == 400
    assert 25 <= sum(number < 300 for number in seen) <= 60
    assert [number for number in seen if number < 300] == list(
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
    assert known.labels == {"a/1.mp4": True, "x/2.mp4": False}
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_known(tmp_path / "labels.csv", _run("other.mp4"))
    for share in (0, 0.6, float("nan")):
        with pytest.raises(InputError, match="--known-share"):
            read_known(tmp_path / "labels.csv", _run("1.mp4"), share)


def test_known_labels_of_another_simulated_corpus_are_refused(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "simulation.json").write_text(f'{{"name": "{name}"}}')
        (tmp_path / name / "labels.csv").write_text("filename,stalled\n1.mp4,1\n")
    run = Run(Path("results"), (Item("1.mp4", tmp_path / "own" / "train" / "1.mp4"),))
    assert read_known(tmp_path / "own" / "labels.csv", run).labels == {"1.mp4": True}
    with pytest.raises(InputError, match=r"other.labels\.csv: .*simulated"):
        read_known(tmp_path / "other" / "labels.csv", run)


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
