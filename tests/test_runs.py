"""Run folders: one writer at a time, one run per folder."""

import os
import signal
import subprocess
import sys

import pytest

from stallscan import runs
from stallscan.errors import InputError

HOLD = """
import sys, time
from stallscan import runs
with runs.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that writes into a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path, owner):
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError) as raised, runs.hold(tmp_path / "out"):
        pass
    message = str(raised.value)
    assert message.startswith(str(tmp_path / "out"))
    assert f"process {owner.pid} on {os.uname().nodename}" in message
    assert "-o" in message
    assert raised.value.exit_code == 2
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert after == before


def test_the_lock_of_a_killed_owner_is_free(tmp_path, owner):
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with runs.hold(tmp_path / "out") as folder:
        assert folder == tmp_path / "out"


def test_two_threads_or_calls_of_one_process_are_two_writers(tmp_path):
    with runs.hold(tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()} "), runs.hold(tmp_path):
            pass
        with runs.hold(tmp_path / "inside"):
            pass
    with runs.hold(tmp_path):
        pass


def test_an_owner_that_did_not_say_who_it_is_is_another_process(tmp_path, owner):
    (tmp_path / "out" / runs.OWNER_NAME).write_text("{}")
    with pytest.raises(InputError, match="another process"), runs.hold(tmp_path / "out"):
        pass


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def no_locks(*_args, **_options):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(runs.FileLock, "acquire", no_locks)
    with runs.hold(tmp_path):
        pass
    assert "no locks here" in caplog.text


@pytest.mark.parametrize("name", ["note.json", "note.yaml"])
def test_the_same_run_is_resumed_and_another_is_refused_with_what_differs(tmp_path, name):
    note = tmp_path / name
    now = {"seed": 1, "clip": {"size": 32, "rate": 1e-5}, "stages": [{"epochs": 3}], "none": None}
    assert runs.claim(note, now, "a thing", ["other"]) is None
    content = note.read_bytes()
    assert runs.claim(note, now, "a thing", ["other"]) == now
    other = now | {"seed": 2, "clip": {"size": 32}, "stages": [{"epochs": 4}]}
    with pytest.raises(InputError) as raised:
        runs.claim(note, other, "a thing")
    for words in ("a thing", "seed was 1, now 2", "clip.rate was 1e-05, now not set", "epochs"):
        assert words in str(raised.value)
    assert note.read_bytes() == content


def test_outputs_without_a_note_are_not_of_such_a_run(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="bundle"):
        runs.claim(tmp_path / "note.json", {}, "a thing", ["bundle"])
    assert not (tmp_path / "note.json").exists()


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_note_that_cannot_be_read_is_said(tmp_path, text):
    (tmp_path / "note.json").write_text(text)
    with pytest.raises(InputError, match=r"note\.json"):
        runs.claim(tmp_path / "note.json", {}, "a thing")


def test_nested_settings_are_named_by_their_place():
    content = {"a": {"b": [1, 2]}, "stages": [{"epochs": 3}], "none": None}
    assert runs.flatten(content) == {
        "a.b": "1, 2",
        "stages.0.epochs": "3",
        "none": "None",
    }


def test_what_a_resumed_run_does_is_one_line():
    said = runs.say_resumed({"new": 1, "changed": 2, "kept": 57})
    assert said.startswith("3 of 60 recordings")
    assert "2 changed" in said
    said = runs.say_resumed({"kept": 60})
    assert said.startswith("nothing to do")
    assert "60" in said
    said = runs.say_resumed({"kept": 50, "unknown": 10}, removed=4)
    assert "have not changed" not in said
    assert "4 rows" in said
    assert "10 were" in said
    assert "unknown" in said
    assert "\n" not in said
