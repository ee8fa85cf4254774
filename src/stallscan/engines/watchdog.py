"""Kill this process with an error message if its interpreter freezes.

A library that waits for a lock while it holds the GIL stops every Python thread, including the one
that watches the others and the one that handles Ctrl-C. Only another process can detect that.
"""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time

from stallscan import processes

# Chosen: no call holds the GIL for this long and still returns.
FROZEN_S = 600

_MESSAGE = (
    "stallscan: error: Python did not respond for {minutes:.0f} minutes, so this run was stopped. "
    "Finished rows are kept. Run the same command again to resume\n"
)
# The program counts steps of one second, not elapsed time, so that time during which both processes
# are suspended does not count. A parent stopped by a signal or debugger (T, t) is not frozen.
_PROGRAM = """
import os, signal, sys, threading
parent, limit, message = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
is_alive = threading.Event()
def listen():
    while os.read(0, 64):
        is_alive.set()
    os._exit(0)
def is_stopped():
    try:
        with open(f"/proc/{parent}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False
threading.Thread(target=listen, daemon=True).start()
silent = 0
while silent < limit:
    silent = 0 if is_alive.wait(1) or is_stopped() else silent + 1
    is_alive.clear()
    if os.getppid() != parent:
        os._exit(0)
sys.stderr.write(message)
sys.stderr.flush()
os.kill(parent, getattr(signal, "SIGKILL", signal.SIGTERM))
"""


@functools.cache
def start() -> None:
    """Start the watching process, once; it ends with this one."""
    if not sys.executable or getattr(sys, "frozen", False):
        return  # a bundled application: there is no Python executable to start
    message = _MESSAGE.format(minutes=FROZEN_S / 60)
    program = ["-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(FROZEN_S), message]
    # If no process can be started, for lack of memory for example, run without a watchdog.
    with contextlib.suppress(OSError), processes.held_interrupts():
        process = subprocess.Popen([sys.executable, *program], stdin=subprocess.PIPE, bufsize=0)
        threading.Thread(target=_beat, args=(process,), daemon=True).start()


def _beat(process: "subprocess.Popen[bytes]") -> None:
    # If the watching process is killed, the run continues without it.
    with contextlib.suppress(OSError):
        while process.stdin is not None:
            process.stdin.write(b".")
            time.sleep(0.3)
