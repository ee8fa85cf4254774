"""One worker process, which runs a task on one item after another.

It ends with the process that started it, even if that is killed. `workers` feeds many of them.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stallscan.errors import WorkerError

# Chosen: imports take a second, or a minute from a slow network drive.
START_S = 300.0
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


def steps(limit_s: float) -> Iterator[float]:
    """Split a wait into steps."""
    left = limit_s
    while left > 0:
        yield min(_STEP_S, left)
        left -= _STEP_S


class EndedError(Exception):
    """A process crashed, or was killed because it exceeded its time limit."""

    def __init__(self, reason: str, is_late: bool = False) -> None:
        super().__init__(reason)
        self.is_late = is_late


class Process:
    """A process that runs a task on one item after another.

    Parameters
    ----------
    task : callable
        A module-level function, or a partial of one.
    memory_bytes : int, optional
        What it may allocate beyond what it has when the task is imported. Only Linux limits it.
    """

    def __init__(self, task: Callable[..., object], memory_bytes: int | None = None) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        pickled = pickle.dumps(task)
        self._process = _CONTEXT.Process(
            target=_work_for, args=(theirs, pickled, memory_bytes), daemon=True
        )
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
        except EndedError as ended:
            raise _cannot_start(str(ended)) from None
        if failure:
            raise _cannot_start(failure)

    def send(self, item: object) -> None:
        """Send an item. If the process has crashed, `receive` reports it."""
        with contextlib.suppress(OSError):
            self._connection.send(item)

    def receive(self, limit_s: float) -> Any:
        """Wait for the next answer; raise an EndedError on a crash or after a timeout."""
        try:
            if any(self._connection.poll(step_s) for step_s in steps(limit_s)):
                return self._connection.recv()
        except (EOFError, OSError):
            self.join()
            raise EndedError(_how_ended(self._process.exitcode)) from None
        self.kill()
        self.join()
        raise EndedError(f"no answer for {duration(limit_s)}", is_late=True)

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


def _work_for(
    connection: "Connection[Any, Any]", pickled: bytes, memory_bytes: int | None = None
) -> None:
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
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    connection.send("")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send_bytes(_answer(task, connection.recv_bytes()))


def _limit_memory(memory_bytes: int) -> None:
    """Let allocations fail that add more than this to the memory of this process, on Linux.

    RLIMIT_DATA counts all private memory, that of mmap included, but no mapped files; RLIMIT_AS
    would count the libraries and address space that threads only reserve.
    """
    if sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text()
        has_bytes = 1024 * int(status.partition("VmData:")[2].split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (has_bytes + memory_bytes, most))


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
