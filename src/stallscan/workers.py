"""Worker processes that yield results in order and survive crashes and hangs.

A crash or a hang costs at most the item that the process worked on, never the run. Workers end with
the process that started them, even if it is killed.
"""

import collections
import contextlib
import math
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Generic, NoReturn, TypeVar

from stallscan.cores import count_cores
from stallscan.errors import InputError, WorkerError

# Items in progress or queued per process: enough to keep it busy while the caller writes a shard.
AHEAD = 4
# Default limit per item. Chosen: far longer than any item takes.
LIMIT_S = 600.0
# Chosen: imports take a second, or a minute from a slow network drive.
START_S = 300.0
# Chosen: more than the cores of any machine. A process takes about 100 MB.
MOST_PROCESSES = 1000
# The machine (lack of memory) may have caused a crash, not the item: try once more.
TRIES = 2
# Wait in short steps, so that time while this process is suspended does not count.
_STEP_S = 1.0
# A process that waits for a dead network drive cannot be killed; do not wait longer for it.
_JOIN_S = 10.0

# In bytes; glibc reads them when a process starts. It then reuses freed memory, such as the frames
# of the last recording, instead of returning it to the system; getting it back, zeroed, would take
# 1/14 of the decoding time. The first is the maximum that glibc accepts.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 128 * 2**20}

# Spawned, because a fork of a process with running OpenCV or torch threads may hang.
_CONTEXT = multiprocessing.get_context("spawn")
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
    return _in_processes(task, items, number, lost, limit_s)


@contextlib.contextmanager
def on_demand(
    task: Callable[[Item], Result],
    processes: int,
    lost: Callable[[Item, str], Result] = _raise_lost,
    limit_s: Callable[[Item], float] = lambda _: LIMIT_S,
) -> Iterator[Callable[[Item], "Future[Result]"]]:
    """Start worker processes for items that come one by one, and end them with the context.

    Parameters and errors as for `in_order`, with at least one process.

    Yields
    ------
    callable
        Submits an item; returns the future of its result.
    """
    pool: _Pool[Item, Result] = _Pool(task, processes, limit_s)

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
        return self.future.done() or any(bool(wait([self.future], s).done) for s in _steps(limit_s))


def _steps(limit_s: float) -> Iterator[float]:
    """Split a wait into steps."""
    left = limit_s
    while left > 0:
        yield min(_STEP_S, left)
        left -= _STEP_S


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
) -> Generator[Result, None, None]:
    pool: _Pool[Item, Result] = _Pool(task, processes, limit_s)
    try:
        for job in in_turn(pool.submit, items, AHEAD * processes):
            job.wait()
            result = job.future.result()
            yield lost(job.item, result.reason) if isinstance(result, _Lost) else result
    finally:
        pool.end()


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
    ) -> None:
        self._task = task
        self._processes = processes
        self._limit_s = limit_s
        self._jobs: queue.SimpleQueue[Job[Item, Result | _Lost] | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
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
            worker: _Worker | None = None
            while True:
                # Send one item ahead, so that the process never waits for the next.
                while len(pending) < 2 and (job := self._take(bool(pending))) is not None:
                    pending.append(job)
                    if worker is not None:
                        worker.send(job.item)
                if not pending:
                    return
                if worker is None:
                    worker = self._start()
                    for job in pending:
                        worker.send(job.item)
                job = pending[0]
                try:
                    is_result, value = worker.receive(self._limit_s(job.item))
                except _EndedError as ended:
                    worker = None
                    job.crashes += 1
                    if ended.is_late or job.crashes == TRIES:
                        pending.popleft()
                        job.future.set_result(_Lost(str(ended)))
                    continue
                pending.popleft()
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

    def _start(self) -> "_Worker":
        with _STARTING:
            if self._has_ended:
                raise WorkerError("the workers have been ended")
            worker = _Worker(self._task)
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


class _EndedError(Exception):
    """A process crashed, or was killed because it exceeded its time limit."""

    def __init__(self, reason: str, is_late: bool = False) -> None:
        super().__init__(reason)
        self.is_late = is_late


class _Worker:
    """A process that runs a task on one item after another."""

    def __init__(self, task: Callable[..., object]) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        pickled = pickle.dumps(task)
        self._process = _CONTEXT.Process(target=_work_for, args=(theirs, pickled), daemon=True)
        is_of_main = getattr(task, "func", task).__module__ == "__main__"
        try:
            if hasattr(signal, "pthread_sigmask"):
                # If `start` started the tracker, that would unblock the signal held below.
                resource_tracker.ensure_running()
            with (
                held_interrupts(),
                _kept_memory(),
                contextlib.nullcontext() if is_of_main else _hidden_main(),
            ):
                self._process.start()
        except OSError as error:
            raise _cannot_start(error.strerror or str(error)) from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until the process has imported the task; raise a WorkerError if it fails."""
        try:
            failure = self.receive(START_S)
        except _EndedError as ended:
            raise _cannot_start(str(ended)) from None
        if failure:
            raise _cannot_start(failure)

    def send(self, item: object) -> None:
        """Send an item. If the process has crashed, `receive` reports it."""
        with contextlib.suppress(OSError):
            self._connection.send(item)

    def receive(self, limit_s: float) -> Any:
        """Wait for the next answer; raise an _EndedError on a crash or after a timeout."""
        try:
            if any(self._connection.poll(step_s) for step_s in _steps(limit_s)):
                return self._connection.recv()
        except (EOFError, OSError):
            self.join()
            raise _EndedError(_how_ended(self._process.exitcode)) from None
        self.kill()
        self.join()
        raise _EndedError(f"no answer for {duration(limit_s)}", is_late=True)

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def join(self) -> None:
        """Wait for the process to end, for at most `_JOIN_S`."""
        self._process.join(_JOIN_S)


def _cannot_start(reason: str) -> WorkerError:
    return WorkerError(
        f"a worker process cannot start: {reason}. Results so far are kept. Run the same command "
        "again with fewer --processes, or with --processes 0"
    )


def _how_ended(code: int | None) -> str:
    if code is None:
        return "ended for an unknown reason"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    # The kernel sends SIGKILL when memory runs out.
    return f"killed by {name}" + (", perhaps out of memory" if code == -9 else "")


def duration(seconds: float) -> str:
    """Format a time limit for a message."""
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide `__main__`, because a spawned process would run the user's script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _kept_memory() -> Iterator[None]:
    """Set `_MEMORY` for starting processes, unless the user has set it."""
    added = {name: str(size) for name, size in _MEMORY.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Block SIGINT in this thread, and permanently in processes that it starts meanwhile.

    A terminal sends Ctrl-C to child processes, too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work_for(connection: "Connection[Any, Any]", pickled: bytes) -> None:
    """Run a task on the items that arrive; this is the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # Imported here, so that a failure can be reported.
        import cv2

        cv2.setNumThreads(1)
        task = pickle.loads(pickled)
    except Exception as error:  # noqa: BLE001 - the parent reports it
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send_bytes(_answer(task, connection.recv_bytes()))


def _answer(task: Callable[[Any], object], pickled: bytes) -> bytes:
    """Run the task; return the pickled (True, result) or (False, exception)."""
    try:
        return pickle.dumps((True, task(pickle.loads(pickled))), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - raised in the parent
        error.add_note("".join(traceback.format_exception(error)))
        return pickle.dumps((False, error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # sys.exit would not end the main thread in native code.
        os._exit(1)
