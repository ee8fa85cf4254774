"""Plans on Ray: the same results as those of the pool, also when machines are lost."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from stallscan.scale import merge, run
from stallscan.scale import plan as plans
from stallscan.scale.place import FolderPlace

TABLES = ("predictions.csv", "traits.csv", "sources.csv")
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs ray")


def _merged(place, out):
    merge.merge(place, out)
    return {name: (out / name).read_bytes() for name in TABLES}


def _python(*words, **variables):
    """Run a module in a process of its own; with workers that are as fast as any process."""
    env = os.environ | {"RAY_worker_niceness": "0"} | variables
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_without_ray_the_command_to_install_it_is_named(run, done, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "stallscan.scale.ray_engine", raising=False)
    monkeypatch.delattr("stallscan.scale.ray_engine", raising=False)
    code, _, said = run("run", str(done.folder), "--engine", "ray")
    assert code == 2
    assert "pip install '.[cluster]'" in said


@pytest.fixture
def undone(done, tmp_path):
    """Return a plan without results, and the tables that the pool made of it."""
    tables = _merged(done.place, tmp_path / "pool")
    for number in done.plan.shards:
        done.result(number).unlink()
    return done, tables


@pytest.mark.slow
@needs_ray
def test_this_machine_writes_what_the_pool_writes(undone, tmp_path):
    done, tables = undone
    ended = _python("stallscan", "run", done.folder, "--engine", "ray", "--cores", 1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "3 shards done (5 recordings, 2 without a call)\n"
    assert "5/5" in ended.stderr
    assert _merged(done.place, tmp_path / "ray") == tables


@pytest.mark.slow
@needs_ray
def test_the_shards_of_a_lost_machine_are_done_again(undone, tmp_path):
    done, tables = undone
    ended = _python("tests.scale.ray_job", "lost", done.folder)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(summary["done"]) == [0, 1, 2]
    assert not summary["failed"]
    assert _merged(done.place, tmp_path / "ray") == tables


@pytest.mark.slow
@needs_ray
def test_decoders_of_the_cluster_feed_a_net(recordings, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("the processor and a real GPU round differently")
    place = FolderPlace(tmp_path / "plan")
    plans.make([recordings], place, shard_size=3, engine="torch")
    run.work(place.where, run.Options(cores=1))
    tables = _merged(place, tmp_path / "pool")
    for path in (tmp_path / "plan" / "results").iterdir():
        path.unlink()
    ended = _python("tests.scale.ray_job", "gpu", place.where)
    assert ended.returncode == 0, ended.stderr
    assert sorted(json.loads(ended.stdout.splitlines()[-1])["done"]) == [0, 1]
    assert _merged(place, tmp_path / "ray") == tables


@pytest.mark.slow
@needs_ray
def test_a_cluster_that_is_not_there_is_a_sentence(undone):
    done, _ = undone
    ended = _python("stallscan", "run", done.folder, "--engine", "ray", RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 2
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("stallscan: ")
    assert "127.0.0.1:1" in said
