"""How long the whole archive takes on 1, 10 and 100 machines, from rates measured on one core.

`measure` times each stage and writes the rates; without a command, the job is simulated with them.
"""

import heapq
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import cyclopts
from common import HERE, machine, markdown, publish, say, version
from fetch import served

from stallscan import files

RECORDINGS, BYTES = 573_048, 1.4e12  # the whole archive (docs/facts.md 4)
SHARD = 512  # recordings: what `stallscan plan` puts into a shard by default
RATES = HERE / "archive_rates.json"
# Amazon's published limit of GET requests a second for one prefix of a bucket.
GETS_S = 5_500.0
app = cyclopts.App()


@dataclass(frozen=True)
class Rates:
    """What one recording costs on one core, in s of processor time, and one shard of its own.

    Attributes
    ----------
    fetch, decode, outline, clip, net : float
        Receiving, checking and writing the file; reading its frames; finding the outline; cutting
        the clip with its traits; the net.
    shard : float
        Starting the command, opening the bundle, and writing the result: once for each shard.
    overhead : float
        Everything else that `predict` does for a recording: passing clips between processes, rows.
    frames : int
        Of the recording that was measured.
    result_bytes : float
        A row of the result, with traits and stamp.
    """

    fetch: float
    decode: float
    outline: float
    clip: float
    net: float
    overhead: float
    shard: float
    frames: int
    result_bytes: float
    measured: str = ""

    @property
    def recording(self) -> float:
        """All stages of one recording."""
        return self.fetch + self.decode + self.outline + self.clip + self.net + self.overhead


@dataclass(frozen=True)
class Cluster:
    """The machines of a job, and what limits them.

    Attributes
    ----------
    machines, cores : int
        How many, and the cores of each; a shard takes all cores of a machine.
    gbit : float
        Network of a machine, Gbit/s.
    price : float
        Of a core, $ an hour.
    lost : float
        Machines taken away, an hour and machine; their shard is done again.
    spread : float
        Relative standard deviation of the speed of machines.
    start_s : float
        Until a machine begins, booting and loading the container; paid for, too.
    """

    machines: int
    cores: int = 16
    gbit: float = 10.0
    gets_s: float = GETS_S
    price: float = 0.05
    lost: float = 0.05
    spread: float = 0.1
    start_s: float = 120.0


@dataclass(frozen=True)
class Job:
    """What the simulation of a job says."""

    hours: float
    dollars: float
    busy: float  # share of the cores' time that is spent on recordings
    gbyte_s: float  # mean rate of the bucket
    repeated: int  # shards done again


@app.default
def main(
    *, machines: tuple[int, ...] = (1, 10, 100), page: Path = HERE / "archive_model.md"
) -> None:
    """Simulate the whole job, and write the tables.

    Parameters
    ----------
    machines
        Numbers of machines.
    page
        The tables, a Markdown file.
    """
    rates = Rates(**json.loads(RATES.read_text(encoding="utf-8")))
    publish(page, "The whole archive", lead(rates), tables(rates, machines))


def lead(rates: Rates) -> str:
    """Say what the tables stand on."""
    return (
        f"{RECORDINGS:,} recordings, {BYTES / 1e12:g} TB, in {-(-RECORDINGS // SHARD):,} shards of "
        f"{SHARD}. Stages in seconds of processor time of one core: {rates.measured}. Times, costs "
        "and rates are computed from them by a simulation; nobody has run the whole job."
    )


def tables(rates: Rates, machines: Iterable[int]) -> list[str]:
    """Return the tables of the page: stages, clusters, and what if something were different."""
    stages = {
        "fetch": rates.fetch,
        "decode": rates.decode,
        "outline": rates.outline,
        "clip and traits": rates.clip,
        "net": rates.net,
        "between processes, rows": rates.overhead,
        "start of a shard": rates.shard / SHARD,
    }
    total = sum(stages.values())
    rows = [
        [name, f"{1000 * s:.1f}", f"{s / total:.0%}", f"{s * RECORDINGS / 3600:.1f}"]
        for name, s in [*stages.items(), ("all", total)]
    ]
    head = ["stage", "ms a recording", "share", "core hours for all"]
    found = [markdown(head, rows)]
    clusters = [Cluster(count) for count in machines]
    found += [_compare(rates, [(f"{each.machines}", each) for each in clusters], "machines")]
    largest = clusters[-1]
    changes = {
        f"{largest.machines} machines, as above": largest,
        "1 Gbit/s": replace(largest, gbit=1.0),
        "no limit of requests": replace(largest, gets_s=float("inf")),
        "4 cores": replace(largest, cores=4),
        "a machine is lost every two hours": replace(largest, lost=0.5),
    }
    found += [_compare(rates, changes.items(), "what if")]
    return found


def _compare(rates: Rates, clusters: Iterable[tuple[str, Cluster]], name: str) -> str:
    head = [name, "cores", "minutes", "$", "cores busy", "GB/s", "shards again", "bottleneck"]
    rows = []
    for label, cluster in clusters:
        job = simulate(rates, cluster)
        rows.append(
            [
                label,
                f"{cluster.machines * cluster.cores:,}",
                f"{60 * job.hours:.0f}",
                f"{job.dollars:.2f}",
                f"{job.busy:.0%}",
                f"{job.gbyte_s:.2f}",
                f"{job.repeated}",
                bottleneck(rates, cluster),
            ]
        )
    return markdown(head, rows)


def bottleneck(rates: Rates, cluster: Cluster) -> str:
    """Name what takes a cluster longest, if everything else took no time."""
    size = BYTES / RECORDINGS
    cores = cluster.machines * cluster.cores
    times = {
        "processor": RECORDINGS * (rates.recording + rates.shard / SHARD) / cores,
        "network of the machines": RECORDINGS * size / (cluster.machines * cluster.gbit * 1e9 / 8),
        "requests of the bucket": RECORDINGS / cluster.gets_s,
        "start of the machines": cluster.start_s,
    }
    return max(times, key=lambda name: times[name])


def simulate(rates: Rates, cluster: Cluster, seed: int = 0) -> Job:
    """Simulate a job, event by event: every machine fetches a shard while it works on the last.

    The bucket's requests are shared evenly by the machines that fetch. A machine that is lost comes
    back at once, without the shards that it had: they go back into the queue.
    """
    rng = random.Random(seed)
    shards = [SHARD] * (RECORDINGS // SHARD) + [RECORDINGS % SHARD] * (RECORDINGS % SHARD > 0)
    size = BYTES / RECORDINGS
    queue = shards[::-1]
    nic = cluster.gbit * 1e9 / 8 / size  # recordings a second
    speed = [max(0.2, rng.gauss(1, cluster.spread)) for _ in range(cluster.machines)]
    fetching: dict[int, list[float]] = {}  # machine: recordings left, and of how many
    waiting: dict[int, int] = {}  # fetched shard of a machine that still works on another
    working: dict[int, tuple[float, int]] = {}  # machine: when it ends, and its recordings
    now, done, busy, fetched, repeated = cluster.start_s, 0, 0.0, 0.0, 0
    losses: list[tuple[float, int]] = []
    if cluster.lost:
        losses = [(now + rng.expovariate(cluster.lost) * 3600, m) for m in range(cluster.machines)]
        heapq.heapify(losses)

    def settle() -> None:
        """Let every machine take what it can: a shard to work on, a shard to fetch."""
        for m in range(cluster.machines):
            if m not in working and m in waiting:
                count = waiting.pop(m)
                took = (count * rates.recording + rates.shard) / cluster.cores / speed[m]
                working[m] = (now + took, count)
            if m not in fetching and m not in waiting and queue:
                count = queue.pop()
                fetching[m] = [float(count), float(count)]

    while done < RECORDINGS:
        settle()
        share = min(nic, cluster.gets_s / len(fetching)) if fetching else 0.0
        ends = [(now + left / share, m) for m, (left, _) in fetching.items()]
        ends += [(end, m) for m, (end, _) in working.items()]
        ends += losses[:1]
        then = min(ends)[0]
        for each in fetching.values():
            each[0] -= share * (then - now)
            fetched += share * (then - now)
        now = then
        for m in [m for m, (left, _) in fetching.items() if left <= 1e-6]:
            waiting[m] = int(fetching.pop(m)[1])
        for m in [m for m, (end, _) in working.items() if end <= now]:
            count = working.pop(m)[1]
            done += count
            busy += count * rates.recording / speed[m]
        if losses and losses[0][0] <= now:
            _, m = heapq.heappop(losses)
            heapq.heappush(losses, (now + rng.expovariate(cluster.lost) * 3600, m))
            lost = [int(fetching.pop(m)[1])] if m in fetching else []
            lost += [waiting.pop(m)] if m in waiting else []
            lost += [working.pop(m)[1]] if m in working else []
            queue += lost
            repeated += len(lost)
    cores = cluster.machines * cluster.cores
    return Job(
        now / 3600,
        now / 3600 * cores * cluster.price,
        busy / (now * cores),
        fetched * size / now / 1e9,
        repeated,
    )


@app.command
def measure(recording: Path, /, *, repeats: int = 25, out: Path = RATES) -> None:
    """Measure all stages on one core with one recording, and write the rates.

    Parameters
    ----------
    recording
        An original recording of the archive, of about the mean size.
    repeats
        Of each stage; the median counts.
    out
        The rates, a JSON file.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import cv2

    cv2.setNumThreads(1)
    from stallscan.bundle import disk
    from stallscan.clips.clip import make_clip
    from stallscan.engines import choose
    from stallscan.recordings import video
    from stallscan.vessels.outline import find_outline

    model = disk.load()
    view, engine = model.spec.view, choose.choose(model, "openvino").engines[0]
    frames = video.read_recording(recording)
    outline = find_outline(frames, view.outline)
    clip = make_clip(frames, outline, view.clip)
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: video.read_recording(recording),
        "outline": lambda: find_outline(frames, view.outline),
        "clip": lambda: make_clip(frames, outline, view.clip),
        "net": lambda: engine.logit(clip.pixels),
    }
    took = {name: _cpu_s(stage, repeats) for name, stage in stages.items()}
    took["fetch"] = _fetch_s(recording.read_bytes(), 8 * repeats)
    few, many = 4, 4 + 4 * repeats
    with tempfile.TemporaryDirectory(prefix="stallscan-", dir=out.parent) as scratch:
        (few_s, few_bytes), (many_s, many_bytes) = (
            _shard(recording, Path(scratch) / str(count), count) for count in (few, many)
        )
    each = (many_s - few_s) / (many - few)
    rates = Rates(
        **took,
        overhead=max(0.0, each - sum(took[name] for name in stages)),
        shard=few_s - few * each,
        frames=len(frames),
        result_bytes=(many_bytes - few_bytes) / (many - few),
        measured=(
            f"medians of {repeats} repeats on one original recording of {len(frames)} frames and "
            f"{recording.stat().st_size / 1e6:.1f} MB, {version()}, {machine()}"
        ),
    )
    files.write_json(out, rates.__dict__)
    say(f"written: {out}")


def _cpu_s(stage: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a stage, after one run that does not count."""
    stage()
    took = []
    for _ in range(repeats):
        before = time.process_time()
        stage()
        took.append(time.process_time() - before)
    return median(took)


def _fetch_s(content: bytes, count: int) -> float:
    """Return the processor time that fetching one recording takes the client."""
    with served(content) as endpoint:
        few, many = (
            _children_cpu_s(str(HERE / "fetch.py"), "client", "fetch", endpoint, str(each))
            for each in (1, 1 + count)
        )
    return (many - few) / count


def _shard(recording: Path, folder: Path, count: int) -> tuple[float, int]:
    """Do one shard of so many copies; return its processor time and the bytes of its result."""
    files.make_folder(folder / "recordings")
    for number in range(count):
        copy = folder / "recordings" / f"{number:06d}{recording.suffix}"
        copy.write_bytes(recording.read_bytes())
    plan = folder / "plan"
    words = ["-m", "stallscan", "plan", str(folder / "recordings"), "-o", str(plan)]
    _children_cpu_s(*words, "--shard-size", str(count))
    before = _size(plan)
    took_s = _children_cpu_s("-m", "stallscan", "run", str(plan), "--shard", "0", "--cores", "1")
    return took_s, _size(plan) - before


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _children_cpu_s(*words: str) -> float:
    """Run Python with these arguments; return the processor time of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    app()
