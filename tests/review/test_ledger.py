import random
import sqlite3

import pytest

from stallscan.errors import InputError
from stallscan.review.answers import Answers, New
from stallscan.review.ledger import Ledger


def _current(ledger):
    return sorted(ledger.all_current(), key=lambda given: given.id)


@pytest.mark.parametrize("seed", range(4))
def test_the_ledger_says_what_the_file_says_whoever_writes(tmp_path, seed):
    draw = random.Random(seed)
    ours, theirs = Answers(tmp_path), Answers(tmp_path)  # two servers
    ledger = Ledger(ours)
    for step in range(60):
        answers, reviewer = draw.choice([ours, theirs]), draw.choice("ab")
        kind = draw.choice(["give", "give", "sheet", "undo"])
        names = [f"{draw.randrange(5)}.mp4" for _ in range(3 if kind == "sheet" else 1)]
        if kind == "undo":
            answers.undo(f"undo-{step:03}", reviewer)
        else:
            news = [
                New(f"token-{step}-{n}", name, reviewer, "flowing", None, draw.random() < 0.2)
                for n, name in enumerate(names)
            ]
            answers.give_all(news, f"sheet-{step}" if kind == "sheet" else None)
        if draw.random() < 0.5:
            ledger.update()
    ledger.update()
    fresh = Ledger(theirs)
    fresh.update()
    assert _current(ledger) == ours.current()
    assert _current(fresh) == ours.current()
    for reviewer in ledger.reviewers():
        assert ledger.recent(reviewer, 3) == ledger.given_by(reviewer)[::-1][:3]


def test_a_sheet_is_saved_and_taken_back_as_one(tmp_path):
    answers = Answers(tmp_path)
    ledger = Ledger(answers)
    answers.give("token-first", "a.mp4", "ann", "stalled")
    news = [New(f"token-{n:03}", f"{n}.mp4", "ann", "flowing") for n in range(12)]
    for _ in range(2):  # posted twice
        answers.give_all(news, "sheet-01")
    answers.give("token-bob", "0.mp4", "bob", "stalled")
    answers.give("token-last", "3.mp4", "ann", "stalled")
    assert len(answers.since(0)) == 15
    assert [given.answer for given in answers.undo("undo-001", "ann")] == ["stalled"]
    taken = answers.undo("undo-002", "ann")
    assert [given.filename for given in taken] == [f"{n}.mp4" for n in range(12)]
    assert answers.undo("undo-002", "ann") == taken  # posted twice
    ledger.update()
    assert {given.filename for given in ledger.given_by("ann")} == {"a.mp4"}
    assert [given.filename for given in answers.undo("undo-003", "ann")] == ["a.mp4"]
    assert [given.reviewer for given in answers.current()] == ["bob"]


def test_a_sheet_with_a_refused_answer_saves_nothing(tmp_path):
    answers = Answers(tmp_path)
    news = [New("token-001", "a.mp4", "ann", "flowing"), New("token-002", None, "ann", "flowing")]
    with pytest.raises(InputError):
        answers.give_all(news, "sheet-01")
    assert answers.since(0) == []


def test_a_row_that_takes_back_nothing_is_refused_every_time(tmp_path):
    answers = Answers(tmp_path)
    answers.give("token-001", "a.mp4", "ann", "flowing")
    with sqlite3.connect(answers.path) as database:
        database.execute(
            "INSERT INTO answers (token, filename, reviewer, takes_back) "
            "VALUES ('token-002', 'a.mp4', 'ann', 99)"
        )
    database.close()
    ledger = Ledger(answers)
    for _ in range(2):
        with pytest.raises(InputError, match="takes back"):
            ledger.update()
