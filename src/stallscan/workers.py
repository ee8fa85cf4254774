"""Pools of worker processes that end when the process that started them does."""

import contextlib
import ctypes
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import cv2

# Parameters of glibc's mallopt, from malloc.h; the threshold is the highest that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_BYTES, _TRIM_BYTES = 32 * 2**20, 128 * 2**20


def cores() -> int:
    """Count the cores that this process may use: a job on a cluster has fewer than its machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool(processes: int) -> ProcessPoolExecutor:
    """Make a pool of spawned processes, one thread each.

    Unlike the workers of a plain pool, these also end when this process is killed: a worker holds
    both ends of the queue it waits on, so it would otherwise wait forever.

    Parameters
    ----------
    processes : int
        How many, at least 1.
    """
    # Not forked: a fork of a process in which threads of OpenCV or torch run may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)


def _begin() -> None:
    cv2.setNumThreads(1)
    _keep_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_memory() -> None:
    """Have memory that was freed used again instead of given back to the system, where glibc is.

    The frames of a recording are freed when the next one comes. To get as many pages from the
    system again, zeroed, takes a fourteenth of the time that decoding does.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Not sys.exit: the main thread may be waiting for a queue that nobody serves any more.
        os._exit(1)
