"""stallscan plan, run, status, merge: exit codes, messages, numbers of tasks."""

import shutil

import pytest

from stallscan.scale.run import TASK_VARIABLES


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch):
    for name in TASK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_job_from_plan_to_table(run, recordings, tmp_path):
    plan, out = tmp_path / "plan", tmp_path / "out"
    code, said, _ = run("plan", recordings, "-o", plan, "--shard-size", 2)
    assert (code, "5 recordings in 3 shards" in said) == (0, True)
    code, _, err = run("merge", plan, "-o", out)
    assert (code, "shard-0000, shard-0001, shard-0002" in err) == (2, True)
    code, said, _ = run("run", plan, "--shard", 1, "--cores", 1)
    assert (code, said.startswith("shard-0001: ")) == (0, True)
    code, said, _ = run("run", plan, "--cores", 1)
    assert (code, "2 shards done" in said, "1 were done before" in said) == (0, True, True)
    code, said, _ = run("merge", plan, "-o", out)
    assert (code, str(out / "predictions.csv") in said) == (0, True)


@pytest.mark.parametrize("name", TASK_VARIABLES)
def test_the_number_of_the_task_is_that_of_the_scheduler(run, done, monkeypatch, name):
    done.result(2).unlink()
    monkeypatch.setenv(name, "2")
    code, said, err = run("run", done.folder, "--cores", 1)
    assert (code, said.startswith("shard-0002: ")) == (0, True)
    assert name in err
    assert done.result(2).exists()
    monkeypatch.setenv(name, "3")
    code, _, err = run("run", done.folder)
    assert (code, "0 to 2" in err) == (2, True)
    # What the user says counts.
    assert run("run", done.folder, "--shard", 0)[0] == 0
    monkeypatch.setenv(name, "x")
    assert run("run", done.folder)[0] == 2


def test_a_held_shard_is_no_success(run, done):
    done.result(0).unlink()
    with done.place.claim("shard-0000"):
        code, _, err = run("run", done.folder, "--shard", 0)
    assert (code, "in work by process" in err) == (1, True)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--moved", "x"], "PLANNED=HERE"),
        (["--cores", 0], "--cores 0"),
        (["--engine", "ray", "--shard", 0], "--engine ray"),
        (["--bundle", "nowhere"], "--bundle FOLDER"),
    ],
)
def test_a_wrong_option_is_one_sentence(run, done, more, word):
    done.result(0).unlink()
    code, _, err = run("run", done.folder, *more)
    assert (code, word in err) == (3 if "--bundle" in more else 2, True)
    assert err.count("stallscan: ") == 1
    assert "Traceback" not in err


def test_a_plan_that_is_gone_is_one_sentence(run, done, tmp_path):
    shutil.rmtree(done.folder)
    for words in (["run"], ["status"], ["merge", "-o", tmp_path / "out"]):
        code, _, err = run(words[0], done.folder, *words[1:])
        assert (code, "this is not a plan" in err) == (2, True)
