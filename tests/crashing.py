"""A decoder that crashes; by itself, so that a process that runs it has little to import."""

import os
import signal

from stallscan.clips import prepare
from stallscan.report import cards

whole = prepare.one
whole_clip = cards.make_clip


def one(source, views):
    """What `prepare.one` does, but 3.mp4 kills the process."""
    if source.filename == "3.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(source, views)


def make_clip(path, margin_px):
    """What `cards.make_clip` does, but 3.mp4 kills the process."""
    if path.name == "3.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole_clip(path, margin_px)
