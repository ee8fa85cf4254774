"""A decoder that crashes; by itself, so that a process that runs it has little to import."""

import os
import signal

from stallscan import prepare

whole = prepare.one


def one(source, views):
    """What `prepare.one` does, but 3.mp4 kills the process."""
    if source.filename == "3.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(source, views)
