"""Pools of worker processes that end when the process that started them does."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

import cv2


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
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Not sys.exit: the main thread may be waiting for a queue that nobody serves any more.
        os._exit(1)
