"""Score clips in threads, in order, with a time limit for each."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Literal

from stallscan import cores
from stallscan.engines import watchdog
from stallscan.errors import EngineError
from stallscan.processes import duration
from stallscan.recordings.recording import Frames
from stallscan.workers import Item, Job, Result, in_turn

# A thread that hangs in native code cannot be stopped, so joining it has a time limit.
_JOIN_S = 10.0

# Time limit for one view of a clip of up to 100 frames; longer clips get proportionally more.
# Chosen: hundreds of times what the slowest net takes.
CLIP_S, CLIP_FRAMES = 600.0, 100


def stream(
    name: str,
    logit: Callable[[Frames], float],
    clips: Iterable[Frames | None],
    threads: int,
    views: Literal["one", "flips"],
) -> Generator[float | None, None, None]:
    """Yield the logit of each clip in order, while the next clips are prepared.

    Clips are uint8 (T, S, S, C), or None, which yields None. At most two per thread are read ahead.
    `name` is the engine's name; `views` is that of `NetSettings`, and allows eight times as long
    with ``flips``, which run the net eight times per clip.

    Raises
    ------
    EngineError
        If a clip takes longer than its limit (`CLIP_S`).
    """

    def score(pixels: Frames | None) -> float | None:
        if pixels is None:
            return None
        with cores.one_core("net"):
            return logit(pixels)

    def limit_s(pixels: Frames | None) -> float:
        frames = CLIP_FRAMES if pixels is None else max(len(pixels), CLIP_FRAMES)
        return CLIP_S * (8 if views == "flips" else 1) * frames / CLIP_FRAMES

    watchdog.start()
    try:
        yield from in_threads(score, clips, threads, limit_s)
    except LateError as error:
        raise EngineError(
            f"the engine {name} gave no result for {error}. Finished rows are kept. Run the same "
            "command again to resume; if this happens again, choose another --engine and another "
            "folder with -o"
        ) from None


class LateError(Exception):
    """An item took longer than its limit. Its thread is abandoned."""


def in_threads(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    limit_s: Callable[[Item], float],
) -> Generator[Result, None, None]:
    """Process items in threads and yield the results in order.

    Items are read in the calling thread, at most two per thread ahead of the results. Exceptions
    of the task are raised here.

    Raises
    ------
    LateError
        If an item takes longer than its `limit_s`. Its thread is abandoned; Python can still exit.
    """
    jobs: queue.SimpleQueue[Job[Item, Result] | None] = queue.SimpleQueue()
    # Daemon threads: at exit, Python would wait for a hung thread of a ThreadPoolExecutor.
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
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            job.future.set_exception(error)
        del job  # free its clip now: the next job may be a long time coming
    jobs.put(None)  # tell the next thread to stop
