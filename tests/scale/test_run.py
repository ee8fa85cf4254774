"""Shards: the same rows as predict, done once, by whoever comes first."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stallscan.calls import inputs, predict
from stallscan.clips import fill
from stallscan.errors import InputError, StoreError
from stallscan.recordings.find import find_recordings
from stallscan.runs import HeldError
from stallscan.scale import merge, run, status
from stallscan.scale import plan as plans
from stallscan.scale.place import FolderPlace
from stallscan.scale.results import ResultError, read
from stallscan.scale.shard import MovedError
from tests import drawing

TABLES = ("predictions.csv", "traits.csv", "sources.csv")


def content(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def results(folder):
    """The results of a plan, without what may differ."""
    found = {}
    for path in sorted((folder / "results").iterdir()):
        found[path.name] = path.read_text().partition('\n "made": ')[0]
    return found


@pytest.mark.parametrize("options", [{}, {"prevalence": 0.02}], ids=["default", "prevalence"])
def test_the_merged_tables_are_those_of_predict(recordings, tmp_path, options, request):
    if not options:
        request.getfixturevalue("processes")
    place = FolderPlace(tmp_path / "plan")
    plans.make([recordings], place, shard_size=2, **options)
    run.work(place.where, run.Options(cores=1))
    merge.merge(place, tmp_path / "merged")
    predict.predict([recordings], tmp_path / "direct", processes=0, **options)
    assert content(tmp_path / "merged") == content(tmp_path / "direct")
    merged, direct = (
        json.loads((tmp_path / name / "run.json").read_text()) for name in ("merged", "direct")
    )
    same = ("paths", "recordings", "bundle", "threshold", "prevalence", "engine", "drift")
    same += ("calls", "statuses", "passed_over", "stallscan", "simulated_training")
    assert {key: merged[key] for key in same} == {key: direct[key] for key in same}
    assert merged["plan"]["sha256"] == plans.read(place).identify()


def test_a_store_gives_the_same_tables_as_predict(recordings, tmp_path):
    store, place = tmp_path / "store", FolderPlace(tmp_path / "plan")
    view = inputs.view_of("default")
    fill.build(store, find_recordings([recordings]).sources, *view, processes=0)
    plans.make([store], place, shard_size=2)
    run.work(place.where, run.Options(cores=1))
    merge.merge(place, tmp_path / "merged")
    predict.predict([store], tmp_path / "direct")
    assert content(tmp_path / "merged") == content(tmp_path / "direct")
    # A clip that is made again is not the planned one.
    (tmp_path / "plan" / plans.result_name(0)).unlink()
    shutil.rmtree(store)
    other = tmp_path / "other"
    shutil.copytree(recordings, other)
    drawing.write(other / "0.mp4", seed=9)
    fill.build(store, find_recordings([other]).sources, *view, processes=0)
    with pytest.raises(StoreError, match="changed since the plan"):
        run.work(place.where, run.Options(cores=1))


def test_a_shard_done_twice_gives_the_same_result(done):
    before, times = results(done.folder), done.result(0).stat().st_mtime_ns
    done.result(1).unlink()
    summary = done.run()
    assert (summary.done, summary.before) == ([1], 2)
    assert results(done.folder) == before
    assert done.result(0).stat().st_mtime_ns == times
    assert done.run().done == []
    assert not list((done.folder / "claims").iterdir())


def test_one_shard_is_done_once(done):
    before = results(done.folder)
    done.result(2).unlink()
    for _ in range(2):
        result = run.one(str(done.folder), 2, run.Options(cores=1))
        assert result.recordings == 1
    assert results(done.folder) == before
    with pytest.raises(InputError, match="numbers 0 to 2"):
        run.one(str(done.folder), 3, run.Options())


def test_a_held_shard_is_left_to_its_owner(done):
    for number in (0, 1):
        done.result(number).unlink()
    with done.place.claim("shard-0001"):
        summary = done.run()
        assert summary.done == [0]
        assert list(summary.held) == [1]
        assert "process " in summary.held[1]
        with pytest.raises(HeldError):
            run.one(str(done.folder), 1, run.Options(cores=1))
    assert done.run().done == [1]


def test_progress_counts_all_recordings_of_the_plan(done):
    done.result(1).unlink()
    seen = []
    run.work(str(done.folder), run.Options(cores=1), lambda *counts: seen.append(counts))
    assert seen == [(3, 5), (4, 5), (5, 5), (5, 5)]


def test_a_vanished_recording_is_a_row_but_a_vanished_folder_is_not(done, tmp_path):
    for number in (0, 1):
        done.result(number).unlink()
    here = tmp_path / "here"
    shutil.copytree(done.recordings, here)
    (here / "0.mp4").unlink()
    moved = (str(done.recordings), str(here))
    done.run(moved=moved)
    first = json.loads(done.result(0).read_text())["tables"]["predictions.csv"]
    assert first.startswith(f'0.mp4,unreadable,"{here / "0.mp4"}: ')
    done.result(0).unlink()
    shutil.rmtree(here)
    with pytest.raises(MovedError, match="--moved"):
        done.run(moved=moved)
    here.mkdir()  # where a drive is not mounted, its folder is empty
    with pytest.raises(MovedError, match="--moved"):
        done.run(moved=moved)
    assert not done.result(0).exists()


def test_a_claim_that_ends_while_others_begin_disturbs_nobody(tmp_path, caplog):
    place, holders = FolderPlace(tmp_path), []

    def claim():
        for _ in range(150):
            with contextlib.suppress(HeldError), place.claim("shard-0000"):
                holders.append(1)
                assert len(holders) == 1
                holders.pop()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(claim) for _ in range(4)]:
            each.result()
    assert not caplog.messages


@pytest.mark.parametrize("how", ["relative", "linked"])
def test_recordings_of_a_moved_folder_are_found_however_it_was_named(
    recordings, tmp_path, monkeypatch, how
):
    before, here, place = tmp_path / "before", tmp_path / "here", FolderPlace(tmp_path / "plan")
    before.mkdir()
    shutil.copy(recordings / "0.mp4", before)
    given, named = Path("../before"), before
    if how == "linked":
        given = named = tmp_path / "link"
        given.symlink_to(before)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    plans.make([given], place)
    before.rename(here)
    with pytest.raises(MovedError, match="--moved"):
        run.work(place.where, run.Options(cores=1, moved=("/elsewhere", str(here))))
    run.work(place.where, run.Options(cores=1, moved=(str(named), str(here))))
    assert read(place, plans.read(place), 0).statuses == {"ok": 1}


def test_a_result_that_cannot_be_written_ends_the_run_and_is_recorded(done):
    shutil.rmtree(done.folder / "results")
    (done.folder / "results").touch()
    with pytest.raises(InputError, match="results: cannot be written"):
        done.run()
    found = status.look(done.place)
    assert found.missing == [0, 1, 2]
    assert "cannot be written" in found.failed[0]["reason"]
    (done.folder / "results").unlink()
    assert done.run().done == [0, 1, 2]
    assert status.look(done.place).failed == {}


def test_a_damaged_result_is_no_reason_to_skip_a_shard(done):
    before = results(done.folder)
    done.result(1).write_text("{")
    run.one(str(done.folder), 1, run.Options(cores=1))
    assert results(done.folder) == before


def test_a_run_does_damaged_shards_again_when_none_is_missing(done, caplog):
    before = results(done.folder)
    done.result(1).write_text("{")
    done.result(2).unlink()
    assert done.run().done == [2]
    assert status.look(done.place).broken.keys() == {1}
    summary = done.run()
    assert (summary.done, summary.before) == ([1], 2)
    assert "shard-0001.json: damaged" in caplog.text
    assert results(done.folder) == before


def test_a_damaged_result_that_another_process_is_doing_again_is_left_to_it(done):
    done.result(1).write_text("{")
    with done.place.claim("shard-0001"):
        assert done.run().done == []
    assert done.result(1).read_text() == "{"


def test_a_result_of_another_plan_is_never_replaced(done):
    content = done.result(0).read_bytes()
    done.result(1).write_bytes(content)
    with pytest.raises(ResultError, match="Remove the file"):
        run.one(str(done.folder), 1, run.Options(cores=1))
    with pytest.raises(ResultError, match="Remove the file"):
        done.run()
    assert done.result(1).read_bytes() == content


def test_a_shard_that_another_task_finishes_meanwhile_is_not_done_again(done, tmp_path):
    finished = done.result(1).rename(tmp_path / "finished.json")
    before = finished.read_bytes()
    claim = FolderPlace.claim

    def late(place, name):
        finished.rename(done.result(1))
        return claim(place, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderPlace, "claim", late)
        run.one(str(done.folder), 1, run.Options(cores=1))
    assert done.result(1).read_bytes() == before


START = """
import sys
from stallscan.scale import run
run.work(sys.argv[1], run.Options(cores=1))
"""


def _start(folder):
    return subprocess.Popen([sys.executable, "-c", START, str(folder)])


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_shard_in_work(done):
    before = results(done.folder)
    for number in done.plan.shards:
        done.result(number).unlink()
    kills = 0
    # Whenever a shard is finished, the process is killed in the next one.
    while missing := run.missing(done.place, done.plan):
        with _start(done.folder) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if len(run.missing(done.place, done.plan)) < len(missing):
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.01)
    assert kills >= 2
    assert results(done.folder) == before


@pytest.mark.slow
def test_two_runs_share_the_shards(recordings, tmp_path, done):
    place = FolderPlace(tmp_path / "shared")
    plans.make([recordings], place, shard_size=1)
    with _start(place.where) as first, _start(place.where) as second:
        assert (first.wait(), second.wait()) == (0, 0)
    assert run.missing(place, plans.read(place)) == []
    merge.merge(place, tmp_path / "a")
    merge.merge(done.place, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
