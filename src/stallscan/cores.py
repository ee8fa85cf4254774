"""The processor: how many cores this process may use, and whether they compute in bf16."""

import collections
import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# The cores of a job whose scheduler does not confine it to them.
SLURM_CORES = "SLURM_CPUS_PER_TASK"


class Budget:
    """The cores that this process and its workers may use at the same time.

    Attributes
    ----------
    cores : int
        Their number.
    seconds : dict of str to float
        Time for which they were used, by stage: core seconds.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._free = threading.Semaphore(cores)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self, stage: str) -> Iterator[None]:
        """Wait for a free core, and hold it."""
        with self._free:
            started = time.monotonic()
            try:
                yield
            finally:
                with self._lock:
                    self.seconds[stage] += time.monotonic() - started


_budget: Budget | None = None


@contextlib.contextmanager
def limited(cores: int | None) -> Iterator[Budget]:
    """Limit this process and its workers to a number of cores, at most those that it may use.

    Decoders and nets then never compute on more cores at once, and each net on one. The limit is
    that of the whole process, because cores are.
    """
    global _budget
    before, available = _budget, count_cores()
    _budget = Budget(min(cores or available, available))
    try:
        yield _budget
    finally:
        _budget = before


def limit() -> int | None:
    """Return the number of cores in `limited`, and None outside."""
    return _budget.cores if _budget else None


def one_core(stage: str) -> contextlib.AbstractContextManager[None]:
    """Hold one of the cores in `limited`; outside, there is nothing to wait for."""
    return _budget.one(stage) if _budget else contextlib.nullcontext()


def count_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use; jobs and containers often have few of a machine's.

    Respects CPU affinity, the CPU quotas of control groups, SLURM's ``--cpus-per-task``, and
    `limited`. A quota of 1.5 cores counts as 2, because a single thread would leave a third of it
    unused.

    Parameters
    ----------
    root : Path
        Folder that contains ``proc`` and ``sys``.
    """
    if _budget:
        return _budget.cores
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()  # since Python 3.13; respects PYTHON_CPU_COUNT
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    allotted = os.environ.get(SLURM_CORES, "")
    limits = [int(allotted)] if allotted.isdecimal() else []
    return max(1, math.ceil(min([count or 1, *limits, *_quotas(root)])))


def has_bf16_instructions(root: Path = Path("/")) -> bool:
    """Return whether the processor has instructions for bf16.

    Where Linux does not say so, the answer is no: without them, a step of training in bf16 takes
    ten times as long as in float32 (measured).
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {word for line in text.splitlines() for word in line.partition(":")[2].split()}
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # the last is ARM's


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's control groups and their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        # cgroup v2: 0::/user.slice; v1: 4:cpu,cpuacct:/docker/1f0a
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = (mounted / controllers, mounted / "cpu")
        if not controllers:
            mounts = (mounted, mounted / "unified")
        # Inside a container the path may be the host's, while only its root is mounted.
        groups = [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]
        for folder in {mount / group for mount in mounts for group in groups}:
            yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        # Without a quota, cgroup v2 has "max" (float raises ValueError) and v1 has -1.
        if float(quota) > 0 and float(period) > 0:
            yield float(quota) / float(period)
