"""An answer belongs to the file that was answered, whatever has its name later."""

import shutil
import sqlite3

import pytest

from stallscan.calls import decide, predict
from stallscan.calls.decide import CallSettings
from stallscan.cli.terminal import read_answers
from stallscan.errors import InputError
from stallscan.review import exchange, labels
from stallscan.review.answers import Answers, New
from stallscan.review.answers_file import SCHEMAS
from stallscan.review.ledger import Ledger
from stallscan.stamps import Stamp
from tests import drawing
from tests.serving import client_of, give, queue

BEFORE, AFTER = (Stamp(9, 1, 1, letter * 64) for letter in "ab")


def _counting(answers):
    """Return the answers that count, which the page and the file must agree on."""
    ledger = Ledger(answers)
    ledger.update()
    current = answers.current()
    assert sorted(ledger.all_current(), key=lambda given: given.id) == current
    return {(given.filename, given.reviewer): given.answer for given in current}


def test_an_answer_to_a_file_that_was_replaced_is_kept_and_does_not_count(tmp_path, caplog):
    answers = Answers(tmp_path, {"a.mp4": BEFORE})
    answers.give("token-00", "old.mp4", "ann", "unsure")  # as an earlier version saved it
    answers.give_all([New("token-01", "a.mp4", "ann", "stalled", None, True, BEFORE)])
    both = {("old.mp4", "ann"): "unsure", ("a.mp4", "ann"): "stalled"}
    assert _counting(answers) == both
    moved = BEFORE._replace(mtime_ns=2, ctime_ns=3)
    assert _counting(Answers(tmp_path, {"a.mp4": moved, "old.mp4": AFTER})) == both
    assert not caplog.records

    after = Answers(tmp_path, {"a.mp4": AFTER})
    (record,) = caplog.records
    for said in ("review.sqlite: 1 answer not used", ": a.mp4.", f"stallscan review {tmp_path}"):
        assert said in record.getMessage()
    assert _counting(after) == {("old.mp4", "ann"): "unsure"}
    # Another answer is no correction of it, and is all that an undo takes back.
    after.give_all([New("token-02", "a.mp4", "ann", "flowing", None, False, AFTER)])
    assert [given.is_check for given in after.current()] == [False, False]
    caplog.clear()
    assert _counting(Answers(tmp_path, {"a.mp4": AFTER})) == both | {("a.mp4", "ann"): "flowing"}
    assert not caplog.records
    taken = [[each.filename for each in after.undo(f"undo-{n}", "ann")] for n in range(3)]
    assert taken == [["a.mp4"], ["old.mp4"], []]
    assert _counting(after) == {}
    # The file was put back.
    assert _counting(Answers(tmp_path, {"a.mp4": BEFORE})) == {("a.mp4", "ann"): "stalled"}


def test_answers_of_the_first_format_are_read_as_they_are_and_kept(tmp_path):
    path = tmp_path / "review.sqlite"
    with sqlite3.connect(path) as database:
        database.executescript(f"{SCHEMAS[1]} PRAGMA user_version = 1;")
        database.execute(
            "INSERT INTO answers (token, filename, reviewer, answer) "
            "VALUES ('token-01', 'a.mp4', 'ann', 'stalled')"
        )
    database.close()
    content = path.read_bytes()
    answers = Answers(tmp_path, {"a.mp4": AFTER, "b.mp4": AFTER})
    assert _counting(answers) == {("a.mp4", "ann"): "stalled"}
    assert path.read_bytes() == content
    answers.give_all([New("token-02", "b.mp4", "ann", "flowing", stamp=AFTER)])
    both = {("a.mp4", "ann"): "stalled", ("b.mp4", "ann"): "flowing"}
    assert _counting(answers) == _counting(Answers(tmp_path, answers._stamps)) == both


def test_a_folder_without_predictions_is_compared_as_it_is_now(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for seed, name in enumerate(["0.mp4", "1.mp4"]):
        drawing.write(folder / name, seed=seed)
    answers = Answers(folder)
    for item in range(2):
        give(client_of(folder, answers), item, "flowing", f"token-0{item}").raise_for_status()
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(_counting(Answers(copy))) == 2
    drawing.write(copy / "1.mp4", seed=9)
    assert _counting(Answers(copy)) == {("0.mp4", "me"): "flowing"}
    labels.write_labels(copy, tmp_path / "labels.csv")
    assert "1.mp4" not in (tmp_path / "labels.csv").read_text()
    told = queue(client_of(copy, Answers(copy)))
    assert ([item["filename"] for item in told["items"]], told["answered"]) == (["1.mp4"], 1)


def test_calls_are_corrected_by_answers_to_the_file_that_was_called(tmp_path, caplog):
    recordings, out = tmp_path / "recordings", tmp_path / "results"
    recordings.mkdir()
    for seed, name in enumerate(["same.mp4", "other.mp4"]):
        drawing.write(recordings / name, seed=seed)

    def called(folder):
        return read_answers(folder / "predictions.csv")

    def answer(answer, token):
        client = client_of(out, Answers(out))
        for item in queue(client)["items"]:
            name = item["filename"]
            give(client, item["item"], answer, f"{token}-{name[:-4]}").raise_for_status()

    predict.predict([recordings], out)
    answer("stalled", "before")
    assert called(out) == {"same.mp4": "stalled", "other.mp4": "stalled"}
    calls = decide.decide(out / "predictions.csv", CallSettings(threshold=0.3))
    decide.write_calls(calls, tmp_path / "decided")
    drawing.write(recordings / "other.mp4", seed=9)
    predict.predict([recordings], out)
    assert "Answers to what was there before are not used" in caplog.text
    assert called(out) == {"same.mp4": "stalled"}
    written = labels.write_labels(out, tmp_path / "labels.csv")
    assert [given.filename for given in written.answers] == ["same.mp4"]
    assert exchange.write_panoptes(out, tmp_path / "manifest.csv").answers == 1

    answer("unscorable", "after")  # to what is not answered
    assert called(out) == {"same.mp4": "stalled", "other.mp4": "unscorable"}
    # These calls are still those of the file of before, and so are the answers to it.
    assert called(tmp_path / "decided") == {"same.mp4": "stalled"} | {"other.mp4": "stalled"}


def test_a_stamp_that_makes_no_sense_is_refused(tmp_path):
    answers = Answers(tmp_path)
    answers.give_all([New("token-01", "a.mp4", "ann", "stalled", stamp=AFTER)])
    with sqlite3.connect(answers.path) as database:
        database.execute("UPDATE stamps SET sha256 = x'00'")
    database.close()
    with pytest.raises(InputError, match=r"review\.sqlite"):
        Answers(tmp_path)
