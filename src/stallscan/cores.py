"""How many processor cores there are to use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path


def count_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: a job or container has fewer than its machine.

    Affinity and the CPU quotas of control groups are respected; a quota of 1.5 cores counts as 2,
    because a single thread would leave a third of it unused.

    Parameters
    ----------
    root : Path
        Folder that holds ``proc`` and ``sys``.
    """
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()  # since Python 3.13; takes PYTHON_CPU_COUNT into account
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, math.ceil(min([count or 1, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups and of all groups above, in cores."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        # 0::/user.slice in version 2, 4:cpu,cpuacct:/docker/1f0a in version 1
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = (mounted / controllers, mounted / "cpu")
        if not controllers:
            mounts = (mounted, mounted / "unified")
        # Inside a container the path may be that of the host, of which only the root is mounted.
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
        # Without a quota version 2 says "max", and version 1 says -1.
        if float(quota) > 0 and float(period) > 0:
            yield float(quota) / float(period)
