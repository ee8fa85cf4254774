"""Worker processes that yield results in order and survive crashes and hangs.

A crash or a hang costs at most the item that the process worked on, never the run. Workers end with
the process that started them, even if it is killed.
"""

import collections
import contextlib
import itertools
import math
import multiprocessing
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

from stallscan import cores
from stallscan.cores import count_cores
from stallscan.errors import InputError, WorkerError
from stallscan.processes import EndedError, Process, steps

# Items in progress or queued per process: enough to keep it busy while the caller writes a shard.
AHEAD = 4
# Default limit per item. Chosen: far longer than any item takes.
LIMIT_S = 600.0
# Chosen: more than the cores of any machine. A process takes about 100 MB.
MOST_PROCESSES = 1000
# The machine (lack of memory) may have caused a crash, not the item: try once more.
TRIES = 2

# Held while a process starts, which temporarily changes `__main__` and the environment.
_STARTING = threading.Lock()

Item = TypeVar("Item")
Result = TypeVar("Result")


def count(processes: int | None) -> int:
    """Return the number of processes to start: one per core for None, 0 inside a pool worker.

    Raises
    ------
    InputError
        If the number is below 0 or above `MOST_PROCESSES`.
    """
    if processes is not None and not 0 <= processes <= MOST_PROCESSES:
        raise InputError(
            f"cannot start {processes} processes. Choose 0 to {MOST_PROCESSES}; this machine has "
            f"{count_cores()} cores"
        )
    # Daemonic processes (workers of multiprocessing.Pool) may not have children.
    if multiprocessing.current_process().daemon:
        return 0
    return count_cores() if processes is None else processes


def _raise_lost(item: object, reason: str) -> NoReturn:
    raise WorkerError(f"{item}: the process that worked on it crashed or hung ({reason})")


def in_order(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int | None,
    lost: Callable[[Item, str], Result] = _raise_lost,
    limit_s: Callable[[Item], float] = lambda _: LIMIT_S,
    memory_bytes: int | None = None,
) -> Generator[Result, None, None]:
    """Process items in single-threaded worker processes and yield the results in order.

    At most `AHEAD` items per process are in progress or queued, so memory stays bounded. A process
    that crashes or hangs is replaced. After a crash its item is tried once more.

    Parameters
    ----------
    task : callable
        A module-level function, or a partial of one; processes one item. Its exceptions are raised
        here.
    items : sequence
        The items.
    processes : int or None
        As for `count`, but at most one per item. With 0 this process does the work.
    lost : callable
        Called with an item whose process crashed or hung, and the reason; returns the result for
        it, or raises. By default, raises a `WorkerError`.
    limit_s : callable
        Returns the time limit for an item, in seconds.
    memory_bytes : int, optional
        What each process may allocate for its items, on Linux; then allocations fail
        (`MemoryError`).

    Raises
    ------
    InputError
        If the number of processes is out of range.
    WorkerError
        If a process cannot start; earlier results are yielded first.
    """
    number = min(count(processes), len(items))
    if number == 0:
        return (task(item) for item in items)
    return _in_processes(task, items, number, lost, limit_s, memory_bytes)


@contextlib.contextmanager
def kept(
    task: Callable[[Item], Result],
    processes: int | None,
    lost: Callable[[Item, str], Result] = _raise_lost,
    limit_s: Callable[[Item], float] = lambda _: LIMIT_S,
    memory_bytes: int | None = None,
) -> Iterator[Callable[[Sequence[Item]], Generator[Result, None, None]]]:
    """Keep worker processes for several sequences of items, and end them with the context.

    Parameters and errors as for `in_order`.

    Yields
    ------
    callable
        Processes a sequence of items as `in_order` does. The next sequence may be given when all
        results of the last one have been taken.
    """
    number = count(processes)
    if number == 0:
        yield lambda items: (task(item) for item in items)
        return
    pool: _Pool[Item, Result] = _Pool(task, number, limit_s, memory_bytes)
    try:
        yield lambda items: _in_pool(pool, items, AHEAD * number, lost)
    finally:
        pool.end()


@contextlib.contextmanager
def on_demand(
    task: Callable[[Item], Result],
    processes: int,
    lost: Callable[[Item, str], Result] = _raise_lost,
    limit_s: Callable[[Item], float] = lambda _: LIMIT_S,
    memory_bytes: int | None = None,
) -> Iterator[Callable[[Item], "Future[Result]"]]:
    """Start worker processes for items that come one by one, and end them with the context.

    Parameters and errors as for `in_order`, with at least one process.

    Yields
    ------
    callable
        Submits an item; returns the future of its result.
    """
    pool: _Pool[Item, Result] = _Pool(task, processes, limit_s, memory_bytes)

    def submit(item: Item) -> "Future[Result]":
        job: Job[Item, Result | _Lost] = Job(item)
        promised: Future[Result] = Future()

        def pass_on(done: "Future[Result | _Lost]") -> None:
            try:
                result = done.result()
                promised.set_result(
                    lost(item, result.reason) if isinstance(result, _Lost) else result
                )
            except BaseException as error:  # noqa: BLE001 - raised where the result is taken
                promised.set_exception(error)

        job.future.add_done_callback(pass_on)
        pool.submit(job)
        return promised

    try:
        yield submit
    finally:
        pool.end()


@dataclass
class Job(Generic[Item, Result]):
    """An item, its future result, and how many processes have crashed on it."""

    item: Item
    future: "Future[Result]" = field(default_factory=Future)
    crashes: int = 0

    def wait(self, limit_s: float = math.inf) -> bool:
        """Wait for the result; return whether it arrived in time."""
        return self.future.done() or any(bool(wait([self.future], s).done) for s in steps(limit_s))


def in_turn(
    submit: Callable[["Job[Item, Result]"], None], items: Iterable[Item], ahead: int
) -> Iterator["Job[Item, Result]"]:
    """Submit items, at most `ahead` at a time, and yield the jobs in order."""
    waiting: collections.deque[Job[Item, Result]] = collections.deque()
    for item in items:
        waiting.append(Job(item))
        submit(waiting[-1])
        while waiting and (len(waiting) >= ahead or waiting[0].future.done()):
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _in_processes(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    lost: Callable[[Item, str], Result],
    limit_s: Callable[[Item], float],
    memory_bytes: int | None,
) -> Generator[Result, None, None]:
    pool: _Pool[Item, Result] = _Pool(task, processes, limit_s, memory_bytes)
    try:
        yield from _in_pool(pool, items, AHEAD * processes, lost)
    finally:
        pool.end()


def _in_pool(
    pool: "_Pool[Item, Result]",
    items: Sequence[Item],
    ahead: int,
    lost: Callable[[Item, str], Result],
) -> Generator[Result, None, None]:
    for job in in_turn(pool.submit, items, ahead):
        job.wait()
        result = job.future.result()
        yield lost(job.item, result.reason) if isinstance(result, _Lost) else result


@dataclass(frozen=True)
class _Lost:
    reason: str


class _Pool(Generic[Item, Result]):
    """Worker processes, each fed by a thread that knows its current item."""

    def __init__(
        self,
        task: Callable[[Item], Result],
        processes: int,
        limit_s: Callable[[Item], float],
        memory_bytes: int | None = None,
    ) -> None:
        self._task = task
        self._memory_bytes = memory_bytes
        self._processes = processes
        self._limit_s = limit_s
        # Send one item ahead, so that a process never waits for the next; but not if each waits
        # for a core.
        self._most_sent = 2 if cores.limit() is None else 1
        self._jobs: queue.SimpleQueue[Job[Item, Result | _Lost] | None] = queue.SimpleQueue()
        self._workers: list[Process] = []
        self._failure: BaseException | None = None
        self._has_ended = False
        for _ in range(processes):
            threading.Thread(target=self._serve, daemon=True).start()

    def submit(self, job: "Job[Item, Result | _Lost]") -> None:
        """Queue a job."""
        self._jobs.put(job)
        if self._failure is not None:
            self._fail(self._failure)

    def end(self) -> None:
        """Kill all processes."""
        self._has_ended = True
        self._jobs.put(None)
        with _STARTING:
            workers = tuple(self._workers)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()

    def _serve(self) -> None:
        """Feed one process with jobs until there are none left."""
        pending: collections.deque[Job[Item, Result | _Lost]] = collections.deque()
        try:
            worker: Process | None = None
            sent = 0  # of the pending ones
            while True:
                while (
                    len(pending) < self._most_sent
                    and (job := self._take(bool(pending))) is not None
                ):
                    pending.append(job)
                if not pending:
                    return
                job = pending[0]
                try:
                    with cores.one_core("workers"):
                        if worker is None:
                            worker, sent = self._start(), 0
                        for unsent in itertools.islice(pending, sent, None):
                            worker.send(unsent.item)
                        sent = len(pending)
                        is_result, value = worker.receive(self._limit_s(job.item))
                except EndedError as ended:
                    worker = None
                    job.crashes += 1
                    if ended.is_late or job.crashes == TRIES:
                        pending.popleft()
                        job.future.set_result(_Lost(str(ended)))
                    continue
                pending.popleft()
                sent -= 1
                if is_result:
                    job.future.set_result(value)
                else:
                    job.future.set_exception(value)
        except BaseException as error:  # noqa: BLE001 - raised where a result is taken
            for job in pending:
                job.future.set_exception(error)
            self._fail(error)

    def _take(self, is_busy: bool) -> "Job[Item, Result | _Lost] | None":
        """Take a job; None at the end, or if enough idle processes can take the rest."""
        if is_busy and self._jobs.qsize() <= self._processes:
            return None
        try:
            job = self._jobs.get(block=not is_busy)
        except queue.Empty:
            return None
        if job is None:
            self._jobs.put(None)  # for the other threads
        return job

    def _start(self) -> "Process":
        with _STARTING:
            if self._has_ended:
                raise WorkerError("the workers have been ended")
            worker = Process(self._task, self._memory_bytes)
            self._workers.append(worker)
        worker.wait_until_ready()
        return worker

    def _fail(self, error: BaseException) -> None:
        """Fail all jobs that are queued now or later."""
        self._failure = error
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job.future.set_exception(error)
            self._jobs.put(None)
