"""The answers: none lost, none doubled, and a complete history."""

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from stallscan.errors import InputError
from stallscan.review.agreement import pairs
from stallscan.review.answers import Answers, New
from stallscan.review.ledger import Ledger
from stallscan.runs import ANSWERS_NAME


def _current(answers):
    return {(given.filename, given.reviewer): given.answer for given in answers.current()}


def test_the_last_answer_of_each_reviewer_counts(tmp_path):
    answers = Answers(tmp_path)
    answers.give("token-01", "a.mp4", "ann", "stalled")
    answers.give("token-02", "a.mp4", "bob", "flowing", 1.5)
    answers.give("token-03", "a.mp4", "ann", "unsure")
    assert _current(answers) == {("a.mp4", "ann"): "unsure", ("a.mp4", "bob"): "flowing"}
    assert _current(Answers(tmp_path)) == _current(answers)  # a server that starts later


def test_an_answer_that_is_posted_again_counts_once(tmp_path):
    answers = Answers(tmp_path)
    for _ in range(2):
        answers.give("token-01", "a.mp4", "ann", "stalled")
    assert len(answers.since(0)) == 1


def test_undo_goes_back_answer_by_answer_and_is_kept_in_the_history(tmp_path):
    answers = Answers(tmp_path)
    for number in range(12):
        answers.give(f"token-{number:02}", f"{number % 4}.mp4", "ann", "stalled")
    answers.give("token-bob", "0.mp4", "bob", "flowing")
    taken = [answers.undo(f"undo-{number:03}", "ann")[0].filename for number in range(12)]
    assert taken == [f"{number % 4}.mp4" for number in range(11, -1, -1)]
    assert answers.undo("undo-last", "ann") == []
    assert _current(answers) == {("0.mp4", "bob"): "flowing"}
    history = answers.since(0)
    assert [given.answer for given, _ in history] == ["stalled"] * 12 + ["flowing"] + ["undo"] * 12
    # The same undo, posted again, takes back nothing else.
    answers.give("token-new", "a.mp4", "ann", "flowing")
    assert [given.filename for given in answers.undo("undo-011", "ann")] == ["0.mp4"]
    assert ("a.mp4", "ann") in _current(answers)


def _give_many(folder, reviewer, count):
    answers = Answers(folder)
    for number in range(count):
        answers.give(f"{reviewer}-{number:06}", f"{number}.mp4", reviewer, "stalled")


def test_four_clients_of_two_servers_lose_and_double_nothing(tmp_path):
    count = 60
    context = multiprocessing.get_context("spawn")
    servers = [
        context.Process(target=_give_many, args=(tmp_path, f"server-{number}", count))
        for number in range(2)
    ]
    for server in servers:
        server.start()
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda name: _give_many(tmp_path, name, count), "abcd"))
    for server in servers:
        server.join()
        assert server.exitcode == 0
    answers = Answers(tmp_path)
    assert len(answers.since(0)) == 6 * count
    assert len(_current(answers)) == 6 * count


def test_two_undos_at_once_take_back_two_answers(tmp_path):
    answers = Answers(tmp_path)
    for number in range(8):
        answers.give(f"token-{number:02}", f"{number}.mp4", "ann", "stalled")
    with ThreadPoolExecutor(4) as clients:
        taken = list(clients.map(lambda n: answers.undo(f"undo-{n:03}", "ann"), range(8)))
    assert sorted(given.filename for each in taken for given in each) == [
        f"{number}.mp4" for number in range(8)
    ]


def test_spellings_of_a_name_are_one_reviewer(tmp_path):
    answers = Answers(tmp_path)
    answers.give_all([New("token-01", "a.mp4", "Ann", "stalled", None, True)])
    answers.give("token-02", "a.mp4", "bob", "stalled")
    with sqlite3.connect(answers.path) as database:  # as earlier versions saved them
        database.executemany(
            "INSERT INTO answers (token, filename, reviewer, answer) VALUES (?, ?, ?, ?)",
            [
                ("token-03", "a.mp4", "ann", "flowing"),
                ("token-04", "b.mp4", " aNN  ", "flowing"),
                ("token-05", "b.mp4", "BOB", "stalled"),
            ],
        )
    database.close()
    expected = {("a.mp4", "Ann"): "flowing", ("b.mp4", "Ann"): "flowing"}
    expected |= {("a.mp4", "bob"): "stalled", ("b.mp4", "bob"): "stalled"}
    ledger = Ledger(answers)
    ledger.update()
    assert ledger.reviewers() == ["Ann", "bob"]
    assert _current(answers) == expected
    (pair,) = pairs(answers.current())
    assert (pair.first, pair.second, pair.both, pair.agreement) == ("Ann", "bob", 2, 0.0)
    assert answers.spelled("ANN") == "Ann"
    assert answers.spelled("Anna") == "Anna"
    # A correction, and an undo, in any spelling.
    answers.give_all([New("token-06", "a.mp4", "ANN ", "unsure", None, False)])
    assert _current(answers) == expected | {("a.mp4", "Ann"): "unsure"}
    assert [answers.undo(f"undo-{n}", "aNn")[0].filename for n in range(4)] == [
        *("a.mp4", "b.mp4"),
        *("a.mp4", "a.mp4"),
    ]
    assert answers.undo("undo-4", "ann") == []
    ledger.update()
    assert ledger.reviewers() == ["bob"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / ANSWERS_NAME).write_text(
        "something else that is long enough to be no database at all"
    )
    with pytest.raises(InputError, match=r"review\.sqlite"):
        Answers(tmp_path)
    assert (tmp_path / ANSWERS_NAME).read_text().startswith("something else")


def test_the_file_survives_a_killed_writer(tmp_path):
    answers = Answers(tmp_path)
    answers.give("token-01", "a.mp4", "ann", "stalled")
    open_elsewhere = sqlite3.connect(tmp_path / ANSWERS_NAME, isolation_level=None)
    open_elsewhere.execute("BEGIN IMMEDIATE")
    open_elsewhere.execute(
        "INSERT INTO answers (token, filename, reviewer, answer) VALUES ('x', 'b', 'ann', 'unsure')"
    )
    assert len(answers.current()) == 1  # readers do not wait for a writer
    open_elsewhere.close()  # without a commit, as if it had been killed
    answers.give("token-02", "c.mp4", "ann", "flowing")
    assert {given.filename for given in answers.current()} == {"a.mp4", "c.mp4"}


def test_the_database_of_another_program_is_left_alone(tmp_path):
    other = sqlite3.connect(tmp_path / "review.sqlite")
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    before = (tmp_path / "review.sqlite").read_bytes()
    with pytest.raises(InputError, match="another program"):
        Answers(tmp_path)
    assert (tmp_path / "review.sqlite").read_bytes() == before


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "review.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        Answers(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_undo_takes_back_only_the_own_answers_of_a_sheet(tmp_path):
    answers = Answers(tmp_path)
    answers.give_all([New("token-01", "a.mp4", "ann", "flowing")], "same-sheet")
    answers.give_all([New("token-02", "b.mp4", "bob", "flowing")], "same-sheet")
    assert [given.filename for given in answers.undo("token-03", "bob")] == ["b.mp4"]
    assert [given.reviewer for given in answers.current()] == ["ann"]


def test_undoing_a_correction_does_not_make_the_first_answer_a_check(tmp_path):
    answers = Answers(tmp_path)
    answers.give("token-01", "a.mp4", "ann", "stalled")
    # Later, the recording is among the known ones.
    answers.give_all([New("token-02", "a.mp4", "ann", "flowing", is_check=True)])
    assert [given.is_check for given in answers.current()] == [False]
    answers.undo("token-03", "ann")
    assert [(given.answer, given.is_check) for given in answers.current()] == [("stalled", False)]
    answers.undo("token-04", "ann")
    answers.give_all([New("token-05", "a.mp4", "ann", "flowing", is_check=True)])
    answers.give("token-06", "a.mp4", "ann", "stalled")  # a check that is corrected stays one
    assert [given.is_check for given in answers.current()] == [True]


def test_answers_are_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    folder = tmp_path / "results #1 ?mode=rwc"
    folder.mkdir()
    Answers(folder).give("token-01", "a.mp4", "ann", "stalled", 2.5)
    connect = sqlite3.connect

    def on_a_read_only_disk(address, **options):
        return connect(
            address.replace("mode=rwc", "mode=ro").replace("mode=rw", "mode=ro"), **options
        )

    monkeypatch.setattr(sqlite3, "connect", on_a_read_only_disk)
    (given,) = Answers(folder).current()
    assert (given.answer, given.seconds) == ("stalled", 2.5)
    with pytest.raises(InputError, match=r"review\.sqlite"):
        Answers(folder).give("token-02", "a.mp4", "ann", "flowing")


def test_answers_of_earlier_versions_are_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    Answers(tmp_path).give("token-01", "a.mp4", "ann", "stalled")
    connect = sqlite3.connect

    def in_wal_mode(address, **options):
        if "immutable=1" not in address:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", in_wal_mode)
    assert [given.answer for given in Answers(tmp_path).current()] == ["stalled"]
    # What is not yet in the file would be missing.
    for kind in ("-wal", "-journal"):
        beside = tmp_path / f"{ANSWERS_NAME}{kind}"
        beside.write_bytes(b"new")
        with pytest.raises(InputError, match=r"review\.sqlite"):
            Answers(tmp_path)
        beside.unlink()


def test_a_copy_of_the_file_has_every_answer_while_the_page_is_open(tmp_path):
    answers = Answers(tmp_path)
    reading = sqlite3.connect(answers.path)  # as another process does
    reading.execute("SELECT count(*) FROM answers").fetchone()
    for number in range(20):
        answers.give(f"token-{number:02}", f"{number}.mp4", "ann", "stalled")
    assert [path.name for path in tmp_path.iterdir()] == [ANSWERS_NAME]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / ANSWERS_NAME).write_bytes(answers.path.read_bytes())
    assert Answers(tmp_path / "copy").current() == answers.current()
    reading.close()


def test_reading_changes_nothing(tmp_path):
    Answers(tmp_path).give("token-01", "a.mp4", "ann", "stalled")
    before = (tmp_path / ANSWERS_NAME).read_bytes()
    assert len(Answers(tmp_path).current()) == 1
    assert (tmp_path / ANSWERS_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [ANSWERS_NAME]


def test_answers_of_another_format_are_refused_and_left_alone(tmp_path):
    Answers(tmp_path)
    database = sqlite3.connect(tmp_path / ANSWERS_NAME)
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    database.execute("PRAGMA user_version = 3")
    database.commit()
    database.close()
    with pytest.raises(InputError, match="format 3"):
        Answers(tmp_path)
