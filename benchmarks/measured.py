"""Running a command as a process of its own, and saying what it and all that it started took."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common import HERE
from jobs import Took

# chosen: looking at the memory takes at most a hundredth of the time, for it slows what it sees
PAUSE = 100
SHORTEST_PAUSE_S = 0.05


@dataclass(frozen=True)
class Watched:
    """What a command took.

    Attributes
    ----------
    seconds : float
        From its start to its end.
    cpu_s : float
        Processor time of all its processes.
    peak_bytes : int
        The most memory that all its processes had at a time, as far as it was seen; what they share
        (PSS) counts once. 0 where the system does not say.
    printed : str
        Its standard output.
    """

    seconds: float
    cpu_s: float
    peak_bytes: int
    printed: str


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes
    ----------
    took : Took
        What the job says of itself.
    peak_bytes : int
        As in `Watched`.
    """

    took: Took
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Recordings a second."""
        return self.took.recordings / self.took.seconds

    @property
    def running_rate(self) -> float:
        """Recordings a second from the first one on, start-up left out."""
        took = self.took
        return (took.recordings - 1) / (took.seconds - took.first_s)


def run(job: str, folder: Path, scratch: Path, cores: int) -> Run:
    """Run a job of `jobs.JOBS` over a folder of recordings.

    Parameters
    ----------
    job : str
        Its name.
    folder : Path
        Recordings only.
    scratch : Path
        A folder; what the job writes into it is removed.
    cores : int
        That it gets, and processes that it starts.
    """
    with tempfile.TemporaryDirectory(prefix="run-", dir=scratch) as out:
        words = [sys.executable, HERE / "jobs.py", job, folder, out, cores]
        watched = watch(words)
    # Whatever else a library may have printed, the job's own line is the last.
    took = Took(**json.loads(watched.printed.splitlines()[-1]))
    return Run(took, watched.peak_bytes)


def watch(words: Iterable[object]) -> Watched:
    """Run a command to its end.

    Raises
    ------
    CalledProcessError
        If it fails.
    """
    given = [str(word) for word in words]
    used, start = _children_cpu_s(), time.perf_counter()
    peak = 0
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            looked = time.perf_counter()
            peak = max(peak, memory(process.pid))
            pause = PAUSE * (time.perf_counter() - looked)
            try:
                process.wait(max(pause, SHORTEST_PAUSE_S))
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - start
        printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, given)
    return Watched(seconds, _children_cpu_s() - used, peak, printed)


def memory(pid: int) -> int:
    """Proportional memory (PSS) of a process and all that it started, bytes; 0 if not known."""
    return sum(_pss(each) for each in _tree(pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text(encoding="ascii").split()
        except OSError:
            continue  # it ended while it was looked at
        for child in pids:
            yield from _tree(int(child))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
