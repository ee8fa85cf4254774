"""Score clips in order, in threads, without waiting forever for an engine."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Literal

from stallscan.engines import watchdog
from stallscan.errors import EngineError
from stallscan.recordings.recording import Frames
from stallscan.workers import Item, Job, Result, duration, in_turn

# A thread in native code cannot be ended: it is not waited for any longer than this.
_JOIN_S = 10.0

# Chosen: hundreds of times what the slowest net takes for a view of a clip of so many frames.
CLIP_S, CLIP_FRAMES = 600.0, 100


def stream(
    name: str,
    logit: Callable[[Frames], float],
    clips: Iterable[Frames | None],
    threads: int,
    views: Literal["one", "flips"],
) -> Generator[float | None, None, None]:
    """Score clips in order while the next ones are being made.

    Parameters
    ----------
    name : str
        Of the engine.
    logit : callable
        Scores a clip; called from several threads if there are several.
    clips : iterable of ndarray or None
        uint8 (T, S, S, C); taken a few ahead of what is yielded, two a thread at most.
    threads : int
        Clips scored at a time.
    views : str
        As the settings of the net say; ``flips`` takes eight passes through it.

    Yields
    ------
    float or None
        The logit of each clip; None for None.

    Raises
    ------
    EngineError
        If the engine gives no result for far longer than a clip takes.
    """

    def score(pixels: Frames | None) -> float | None:
        return None if pixels is None else logit(pixels)

    def limit_s(pixels: Frames | None) -> float:
        frames = CLIP_FRAMES if pixels is None else max(len(pixels), CLIP_FRAMES)
        return CLIP_S * (8 if views == "flips" else 1) * frames / CLIP_FRAMES

    watchdog.start()
    try:
        yield from in_threads(score, clips, threads, limit_s)
    except LateError as error:
        raise EngineError(
            f"the engine {name} gave no result for {error}. Finished rows are kept; run the same "
            "command again to resume. If it happens again, choose another --engine, and another "
            "folder with -o"
        ) from None


class LateError(Exception):
    """An item took longer than it may; its thread is left behind."""


def in_threads(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    limit_s: Callable[[Item], float],
) -> Generator[Result, None, None]:
    """Work through items in threads and yield the results in order.

    Items are taken a few ahead of what is yielded, two a thread at most.

    Parameters
    ----------
    task : callable
        Works on one item. What it raises is raised here.
    items : iterable
        What is worked on; taken in the calling thread.
    threads : int
        How many, at least 1.
    limit_s : callable
        Given an item, returns for how long its result is waited for, in seconds.

    Raises
    ------
    LateError
        If an item takes longer. Its thread is left behind, and does not keep Python from exiting.
    """
    jobs: queue.SimpleQueue[Job[Item, Result] | None] = queue.SimpleQueue()
    # Daemons: Python waits at its exit for the threads of a ThreadPoolExecutor, be they hung.
    started = [
        threading.Thread(target=_work, args=(task, jobs), daemon=True) for _ in range(threads)
    ]
    for thread in started:
        thread.start()
    is_waiting = True
    try:
        for job in in_turn(jobs.put, items, 2 * threads):
            limit = limit_s(job.item)
            if not job.wait(limit):
                raise LateError(duration(limit))
            yield job.future.result()
    except (LateError, KeyboardInterrupt):
        is_waiting = False
        raise
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.get_nowait()
        jobs.put(None)
        for thread in started if is_waiting else ():
            thread.join(_JOIN_S)


def _work(
    task: Callable[[Item], Result], jobs: "queue.SimpleQueue[Job[Item, Result] | None]"
) -> None:
    while (job := jobs.get()) is not None:
        try:
            job.future.set_result(task(job.item))
        except BaseException as error:  # noqa: BLE001 - raised where the result is taken
            job.future.set_exception(error)
        del job  # its item is large, and the next one may take long to come
    jobs.put(None)  # for the other threads
