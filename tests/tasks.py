"""What worker processes do in tests; by itself, so that they have little to import."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path


def double(item):
    return 2 * item


def started_with(name):
    """The variable in the environment that the process was given, not as Python sees it now."""
    given = Path("/proc/self/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in given if pair).get(name)


def take_time(item):
    """The first ones are done last."""
    time.sleep(0.2 / (1 + item))
    return item


def crash_at_three(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def crash_once(folder, item):
    """As one that runs out of memory because of the others does."""
    if item == 3:
        with contextlib.suppress(FileExistsError):
            Path(folder, "crashed").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    return item


def hang_at_three(item):
    """In native code that holds the interpreter, so that no thread of Python runs any more."""
    if item == 3:
        ctypes.PyDLL(None).sleep(600)
    return item


def fail_at_three(item):
    if item == 3:
        raise ValueError("three")
    return item


def pid_of(_item):
    return os.getpid()


def wait_long(folder, item):
    Path(folder, f"{os.getpid()}").touch()
    if item:
        time.sleep(600)
    return item


def span_of(_item):
    """When it was done, by the clock that all processes share."""
    start = time.monotonic()
    time.sleep(0.01)
    return start, time.monotonic()


class Unloadable:
    """A task that cannot be imported by the worker."""

    __module__ = "tests.tasks"

    def __call__(self, item):
        return item

    def __reduce__(self):
        return _fail_to_import, ()


def _fail_to_import():
    raise ImportError("libGL.so.1: cannot open shared object file")


def allocate(size):
    """Whether so many bytes are to be had."""
    try:
        return len(bytearray(size)) == size
    except MemoryError:
        return False
