"""A limit of cores: decoders and nets together never use more at once."""

import collections
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stallscan import cores, workers
from stallscan.engines import stream
from stallscan.scale import plan as plans
from stallscan.scale.place import FolderPlace
from tests import drawing, tasks


def most_at_once(spans):
    """The largest number of (start, end) that overlap."""
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(np.cumsum([step for _, step in steps]))


def test_a_limit_is_at_most_what_there_is(monkeypatch):
    available = cores.count_cores()
    assert cores.limit() is None
    with cores.limited(1):
        assert (cores.limit(), cores.count_cores()) == (1, 1)
    for given in (available + 1, None):
        with cores.limited(given):
            assert cores.count_cores() == available
    assert (cores.limit(), cores.count_cores()) == (None, available)
    monkeypatch.setenv(cores.SLURM_CORES, "1")
    assert cores.count_cores() == 1
    with cores.limited(8):
        assert cores.limit() == 1
    monkeypatch.setenv(cores.SLURM_CORES, "nonsense")
    assert cores.count_cores() == available


def test_processes_and_nets_wait_for_the_same_cores():
    lock, spans, items = threading.Lock(), [], range(6)

    def net(_):
        start = time.monotonic()
        time.sleep(0.01)
        with lock:
            spans.append((start, time.monotonic()))
        return 0.0

    with (
        cores.limited(1) as budget,
        workers.kept(tasks.span_of, 2) as many,
    ):
        for _ in range(2):  # the processes are the same
            done = []

            def clips(done=done):
                for span in many(items):
                    done.append(span)
                    yield np.zeros((1, 1, 1, 1), np.uint8)

            assert list(stream.stream("net", net, clips(), 3, "one")) == [0.0] * len(items)
            # The clock is that of the machine. An answer arrives after its process was done.
            spans += done
    assert len(spans) == 24
    assert most_at_once(spans) == 1
    assert budget.seconds["workers"] > 0
    assert budget.seconds["net"] > 0.1


def test_kept_processes_survive_a_crash_and_keep_the_order():
    with cores.limited(2), workers.kept(tasks.crash_at_three, 2, lambda *_: "lost") as many:
        assert list(many(range(5))) == [0, 1, 2, "lost", 4]
        assert list(many(range(4, 9))) == [4, 5, 6, 7, 8]


def _running(top):
    """The number of threads that run, or wait for a core, in a process and all below it."""
    children, count = collections.defaultdict(list), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(path.parent)
        except OSError:
            continue
    todo = [Path(f"/proc/{top}")]
    while todo:
        process = todo.pop()
        todo += children[int(process.name)]
        for path in process.glob("task/*/stat"):
            try:
                count += path.read_text().rpartition(")")[2].split()[0] == "R"
            except OSError:
                continue
    return count


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_shard_on_one_core_runs_one_thread(tmp_path, engine):
    for seed in range(6):
        drawing.write(tmp_path / "in" / f"{seed}.mp4", seed=seed, count=60, height=384, width=512)
    place = FolderPlace(tmp_path / "plan")
    plans.make([tmp_path / "in"], place, engine=engine)
    command = [sys.executable, "-m", "stallscan", "run", place.where, "--cores", "1"]
    samples = []
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen(command, env=environment) as process:
        # Imports come before.
        while process.poll() is None and not (tmp_path / "plan" / "claims").exists():
            time.sleep(0.1)
        while process.poll() is None:
            samples.append(_running(process.pid))
            time.sleep(0.01)
    assert len(samples) > 50
    # The main process also moves clips from decoders to nets, for a few milliseconds each.
    assert np.mean(samples) < 1.4
    assert np.mean(np.array(samples) > 1) < 0.3
