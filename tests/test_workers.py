"""Workers: order, crashes, hangs, failures to start, scripts without a guard, signals, cores."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from stallscan import cores, processes, workers
from stallscan.errors import InputError, WorkerError
from tests import tasks

slow = pytest.mark.slow
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

KILLED = """
import os, signal
from stallscan import workers
from tests import tasks

pids = set(workers.in_order(tasks.pid_of, range(8), 2))
rest = workers.in_order(tasks.pid_of, range(100), 2)
print(*{next(rest) for _ in range(8)}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def lost(item, reason):
    return f"lost {item}: {reason}"


@needs_signals
def test_workers_end_with_a_killed_parent(tmp_path):
    # Not through a pipe: it would stay open, and this wait, for as long as a worker lives.
    with (tmp_path / "pids").open("w+") as out:
        subprocess.run([sys.executable, "-c", KILLED], stdout=out, check=False, timeout=60)
        out.seek(0)
        pids = [int(pid) for pid in out.read().split()]
    assert pids
    assert wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("processes", [0, 2])
def test_results_come_in_order(processes):
    assert list(workers.in_order(tasks.take_time, range(7), processes, lost)) == [*range(7)]


def test_what_a_task_raises_is_raised_in_its_place_and_says_where():
    results = workers.in_order(tasks.fail_at_three, range(9), 2, lost)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three") as caught:
        next(results)
    assert "tasks.py" in caught.value.__notes__[0]


@needs_signals
def test_a_crash_and_a_hang_cost_their_own_item_only(tmp_path):
    """Also a hang in native code."""
    crashed = list(workers.in_order(tasks.crash_at_three, range(9), 2, lost))
    assert crashed[:3] + crashed[4:] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert "SIGSEGV" in crashed[3]
    once = functools.partial(tasks.crash_once, tmp_path)
    assert list(workers.in_order(once, range(9), 2, lost)) == [*range(9)]
    hung = list(workers.in_order(tasks.hang_at_three, range(9), 2, lost, lambda _: 0.5))
    assert hung[:3] + hung[4:] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert "0.5 s" in hung[3]


def test_items_on_demand_have_results_of_their_own():
    with workers.on_demand(tasks.crash_at_three, 2, lost) as submit:
        futures = {item: submit(item) for item in (5, 3, 1)}
        results = {item: future.result(60) for item, future in futures.items()}
        assert (results[5], results[1]) == (5, 1)
        assert results[3].startswith("lost 3: ")
    with (
        workers.on_demand(tasks.fail_at_three, 1) as submit,
        pytest.raises(ValueError, match="three"),
    ):
        submit(3).result(60)


def test_no_process_is_left():
    results = workers.in_order(tasks.pid_of, range(100), 2, lost)
    pids = {next(results) for _ in range(8)}
    results.close()
    assert wait_until(lambda: not any(map(is_alive, pids)))
    assert os.getpid() not in pids


def test_a_worker_that_cannot_import_is_no_fault_of_the_item():
    with pytest.raises(WorkerError, match=r"ImportError: libGL.*--processes"):
        list(workers.in_order(tasks.Unloadable(), range(9), 2, lost))


def test_a_machine_that_starts_no_process_is_said(monkeypatch):
    def refuse(_self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    with pytest.raises(WorkerError, match="Resource temporarily unavailable"):
        list(workers.in_order(tasks.double, range(9), 2, lost))


@needs_signals
def test_a_worker_that_is_killed_while_it_starts_is_said(monkeypatch):
    monkeypatch.setattr(processes, "_work_for", tasks.pid_of)
    with pytest.raises(WorkerError, match="--processes"):
        list(workers.in_order(tasks.double, range(9), 2, lost))


@pytest.mark.parametrize("processes", [-1, 1_000_000])
def test_an_absurd_number_of_processes_is_refused(processes):
    with pytest.raises(InputError, match=f"{processes} processes"):
        workers.in_order(tasks.double, range(9), processes, lost)


def test_no_more_processes_start_than_there_are_items(monkeypatch):
    started = []
    monkeypatch.setattr(workers, "_in_processes", lambda *given: started.append(given[2]))
    workers.in_order(tasks.double, range(3), 64, lost)
    assert started == [3]


# Of a script without a guard, which every worker of a plain pool would run again.
UNGUARDED = """
from stallscan import workers
from tests import tasks

with open("runs", "a") as file:
    file.write("run\\n")
print(list(workers.in_order(tasks.double, range(4), 2)))
"""


@pytest.mark.parametrize(
    "how", ["file", "stdin", pytest.param("module", marks=slow), pytest.param("-c", marks=slow)]
)
def test_a_script_needs_no_guard(how, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = {
        "file": ["script.py"],
        "module": ["-m", "script"],
        "stdin": ["-"],
        "-c": ["-c", UNGUARDED],
    }[how]
    done = _python(command, tmp_path, input=UNGUARDED if how == "stdin" else "")
    assert (done.stdout.strip(), done.stderr) == ("[0, 2, 4, 6]", "")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_task_of_the_script_itself_is_found(tmp_path):
    (tmp_path / "script.py").write_text(
        "from stallscan import workers\n"
        "def treble(item):\n    return 3 * item\n"
        "if __name__ == '__main__':\n    print(list(workers.in_order(treble, range(4), 2)))\n"
    )
    assert _python(["script.py"], tmp_path).stdout.strip() == "[0, 3, 6, 9]"


def test_a_process_that_still_starts_writes_into_no_folder(tmp_path):
    """A pool of the user's own runs an unguarded script again, in each of its processes."""
    (tmp_path / "script.py").write_text(
        "import multiprocessing, sys\n"
        "from stallscan import files\n"
        "files.make_folder('out')\n"
        "process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "process.start(); process.join(); sys.exit(process.exitcode)\n"
    )
    done = _python(["script.py"], tmp_path)
    assert done.returncode == 1
    assert "InputError" in done.stderr
    assert '__name__ == "__main__"' in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_starts_with_the_thresholds_of_glibc(monkeypatch):
    mmap, trim = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
    monkeypatch.delenv(mmap, raising=False)
    monkeypatch.setenv(trim, "1000000")
    started = list(workers.in_order(tasks.started_with, [mmap, trim], 1, lost))
    assert started == ["33554432", "1000000"]  # the user's wins
    assert mmap not in os.environ
    assert os.environ[trim] == "1000000"


def test_a_process_that_may_have_no_children_works_by_itself(monkeypatch):
    monkeypatch.setitem(workers.multiprocessing.current_process()._config, "daemon", True)
    assert set(workers.in_order(tasks.pid_of, range(3), 2, lost)) == {os.getpid()}


def _python(command, folder, **options):
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


INTERRUPTED = """
import functools, sys
from stallscan import workers
from tests import tasks

print(list(workers.in_order(functools.partial(tasks.wait_long, sys.argv[1]), range(50), 2)))
"""


@needs_signals
@pytest.mark.parametrize(
    ("number", "to", "ready"),
    [
        (signal.SIGINT, "group", 2),
        pytest.param(signal.SIGINT, "group", 0, marks=slow),
        pytest.param(signal.SIGINT, "process", 2, marks=slow),
        pytest.param(signal.SIGINT, "process", 0, marks=slow),
        (signal.SIGTERM, "process", 2),
        pytest.param(signal.SIGTERM, "group", 2, marks=slow),
        pytest.param(signal.SIGTERM, "process", 0, marks=slow),
    ],
)
def test_a_signal_ends_all_at_once(tmp_path, number, to, ready):
    """Also while workers start, and as a terminal sends it: to them as well."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if ready:
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == ready)
    else:
        time.sleep(0.7)
    started = time.monotonic()
    (os.killpg if to == "group" else os.kill)(process.pid, number)
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - started < 10
    assert process.returncode == -number
    # One traceback, of the script: none of its workers.
    assert said.count("Traceback") == (number == signal.SIGINT)
    assert wait_until(lambda: not _group_lives(process.pid))


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("v2", {"cpu.max": "150000 100000\n"}, 2),
        ("v2", {"cpu.max": "max 100000\n"}, 8),
        ("v2", {"cpu.max": "20000 100000\n"}, 1),
        ("v2 above", {"cpu.max": "300000 100000\n"}, 3),
        ("v2 hybrid", {"cpu.max": "300000 100000\n"}, 3),
        ("v1", {"cpu.cfs_quota_us": "250000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ("v1", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 8),
        ("v1 in a container", {"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000"}, 4),
        ("v2", {"cpu.max": "nonsense"}, 8),
        ("none", {}, 8),
    ],
)
def test_cores_are_those_of_the_control_group(tmp_path, monkeypatch, name, written, expected):
    line, folder = {
        "v2": ("0::/job/step", "sys/fs/cgroup/job/step"),
        "v2 above": ("0::/job/step", "sys/fs/cgroup/job"),
        "v2 hybrid": ("1:name=systemd:/\n0::/job/step", "sys/fs/cgroup/unified/job/step"),
        "v1": ("3:cpuset:/\n4:cpu,cpuacct:/job", "sys/fs/cgroup/cpu,cpuacct/job"),
        "v1 in a container": ("4:cpu:/docker/1f0a", "sys/fs/cgroup/cpu"),
        "none": ("", "sys"),
    }[name]
    monkeypatch.delenv(cores.SLURM_CORES, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line + "\n")
    (tmp_path / folder).mkdir(parents=True)
    for file, content in written.items():
        (tmp_path / folder / file).write_text(content)
    assert cores.count_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("model name\t: bf16less\nflags\t\t: fpu avx512f\n", False),
        (None, False),
    ],
)
def test_bf16_is_what_linux_says(tmp_path, cpuinfo, expected):
    if cpuinfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    assert cores.has_bf16_instructions(tmp_path) is expected
