"""What `speed.py` and `scale.py` time: one job over a folder of recordings, in a fresh process.

    python benchmarks/jobs.py JOB RECORDINGS OUT CORES

The job gets so many cores and as many processes, and prints as JSON how long it took. The clock of
our own jobs and of the decoder starts before anything is imported, and stops when all processes
have ended. That of the published jobs starts when processes, imports and nets are ready.
"""

import importlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Took:
    """What a job took.

    Attributes
    ----------
    recordings : int
        How many it was given.
    seconds : float
        For all of them.
    first_s : float
        Until the first was done.
    cpu_s : float
        Of all its processes together, for all recordings.
    """

    recordings: int
    seconds: float
    first_s: float
    cpu_s: float


class Clock:
    """Notes when the first recording was done."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first_s = 0.0

    def update(self, done: int, _of: int = 0) -> None:
        """Take note of how many are done; has the form of a progress callback."""
        if done and not self.first_s:
            self.first_s = time.perf_counter() - self.start

    def took(self, recordings: int, cpu_s: float) -> Took:
        """Stop."""
        return Took(recordings, time.perf_counter() - self.start, self.first_s, cpu_s)


def decode(folder: Path, _out: Path, processes: int) -> Took:
    """Decode every frame and throw it away: what no other job can do without."""
    clock = Clock()
    from stallscan import workers

    paths = sorted(folder.iterdir())
    for done, _ in enumerate(workers.in_order(_decode_one, paths, processes), start=1):
        clock.update(done)
    return clock.took(len(paths), _cpu_s())


def _decode_one(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        return sum(1 for _ in container.decode(stream))


def prepare(folder: Path, out: Path, processes: int) -> Took:
    """Make a store of clips, as `stallscan prepare` does."""
    clock = Clock()
    from stallscan.bundle import disk
    from stallscan.clips import fill
    from stallscan.recordings import find

    view = disk.load().spec.view
    sources = find.list_recordings([folder])
    fill.build(out / "store", sources, view.outline, view.clip, processes, clock.update)
    return clock.took(len(sources), _cpu_s())


def predict(folder: Path, out: Path, processes: int) -> Took:
    """Call every recording, as `stallscan predict` does."""
    clock = Clock()
    from stallscan.calls import predict as module

    summary = module.predict([folder], out, processes=processes, progress=clock.update)
    return clock.took(sum(summary.calls.values()), _cpu_s())


def published_clips(folder: Path, out: Path, processes: int) -> Took:
    """Do the published preprocessing, and decode the small videos again."""
    paths = sorted(folder.iterdir())
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, _begin, (ready,)) as pool:
        ready.wait()
        clock = Clock()
        cpu_s = 0.0
        tasks = [(path, out / path.name) for path in paths]
        for done, used in enumerate(pool.imap(_published_clip, tasks), start=1):
            cpu_s += used
            clock.update(done)
        return clock.took(len(paths), cpu_s)


def _begin(ready: Any) -> None:
    import cv2

    # Seconds of imports, which are not to be timed.
    importlib.import_module("published")
    cv2.setNumThreads(1)
    ready.wait()


def _published_clip(task: tuple[Path, Path]) -> float:
    import published

    start = time.process_time()
    source, target = task
    if published.preprocess(source, target):
        published.load(target)
    return time.process_time() - start


def published_single(folder: Path, out: Path, _processes: int) -> Took:
    """Do all of the published pipeline with its R(2+1)D, in one process with its threads."""
    import published

    net = published.build(*published.SINGLE)
    return _published_calls(folder, out, lambda clip: published.score(net, clip))


def published_ensemble(folder: Path, out: Path, _processes: int) -> Took:
    """Do all of the published pipeline with its three nets, in one process with its threads."""
    import published

    nets = [published.build(name) for name, _ in published.ENSEMBLE]
    return _published_calls(folder, out, lambda clip: published.vote(nets, clip))


def _published_calls(folder: Path, out: Path, call: Callable[[Any], object]) -> Took:
    import published

    paths = sorted(folder.iterdir())
    clock, before = Clock(), time.process_time()
    for done, path in enumerate(paths, start=1):
        if published.preprocess(path, out / path.name):
            call(published.load(out / path.name))
        clock.update(done)
    return clock.took(len(paths), time.process_time() - before)


JOBS: dict[str, Callable[[Path, Path, int], Took]] = {
    "decode": decode,
    "prepare": prepare,
    "predict": predict,
    "published-clips": published_clips,
    "published-single": published_single,
    "published-ensemble": published_ensemble,
}


def _cpu_s() -> float:
    """Processor time of this process and of those it has started and waited for, s."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(one) for one in who]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Run the job that the command line names."""
    name, folder, out, cores = sys.argv[1:]
    count = int(cores)
    # So that one process is one core, whatever threads a library starts in it.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    took = JOBS[name](Path(folder), Path(out), count)
    print(json.dumps(asdict(took)))


if __name__ == "__main__":
    main()
