"""End this process with a sentence if its interpreter freezes.

A library that waits for a lock while it holds the interpreter stops every thread of Python, also
the one that watches over the others and the one that obeys Ctrl-C. Only another process can tell.
"""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time

from stallscan import workers

# Chosen: no call holds the interpreter for so long and comes back.
FROZEN_S = 600

_SENTENCE = (
    "stallscan: error: Python has been frozen for {minutes:.0f} minutes, so this run is ended. "
    "Finished rows are kept; run the same command again to resume\n"
)
# Steps of a second are counted, so that time during which both processes are suspended is not. A
# parent that is stopped by a signal or a debugger (T, t) is not frozen.
_PROGRAM = """
import os, signal, sys, threading
parent, limit, sentence = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
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
sys.stderr.write(sentence)
sys.stderr.flush()
os.kill(parent, getattr(signal, "SIGKILL", signal.SIGTERM))
"""


@functools.cache
def start() -> None:
    """Start the process that watches, once; it ends with this one."""
    if not sys.executable or getattr(sys, "frozen", False):
        return  # what could be started is not Python
    sentence = _SENTENCE.format(minutes=FROZEN_S / 60)
    program = ["-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(FROZEN_S), sentence]
    # A machine without room for it does without.
    with contextlib.suppress(OSError), workers.held_interrupts():
        process = subprocess.Popen([sys.executable, *program], stdin=subprocess.PIPE, bufsize=0)
        threading.Thread(target=_beat, args=(process,), daemon=True).start()


def _beat(process: "subprocess.Popen[bytes]") -> None:
    # It may be killed: then nothing watches.
    with contextlib.suppress(OSError):
        while process.stdin is not None:
            process.stdin.write(b".")
            time.sleep(0.3)
