"""Kill processes at random moments of a plan, and compare what is merged in the end.

    python -m tests.chaos.kills --engine pool --kills 20 --seed 1 FOLDER

Every round is a plan of 100 shards from scratch. At random moments, processes of the job are
killed with SIGKILL, one or (--plans) several: a decoder, the command itself, or, by engine, a
worker or the second machine of a Ray cluster, a step of SLURM or its daemon. Then the same command
is run until no shard is missing. The merged tables must be those of the pool when nothing is
killed, byte for byte.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests import drawing

ROOT = Path(__file__).parents[2]
SHARDS, SHARD_SIZE = 100, 3
TABLES = ("predictions.csv", "traits.csv", "sources.csv")
# Runs of the same command until nothing is missing; the first one is killed.
MOST_RUNS = 6
LIMIT_S = 5400.0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def make_recordings(folder: Path, count: int) -> Path:
    """Write small drawn recordings, a hundred different ones under many names."""
    if not folder.exists():
        folder.mkdir(parents=True)
        different = [
            drawing.write(folder / f"{number:04d}.mp4", seed=number, count=12)
            for number in range(min(100, count))
        ]
        for number in range(len(different), count):
            copy = folder / f"{number:04d}.mp4"
            shutil.copyfile(different[number % len(different)], copy)
            # Equal times, so that stamps do not depend on when this folder was made.
        for path in folder.iterdir():
            os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def stallscan(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of stallscan to its end."""
    command = [sys.executable, "-m", "stallscan", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def make_command(folder: Path) -> None:
    """Put stallscan into the PATH under its name, by which the templates call it."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    command = f'PYTHONPATH={ROOT}/src exec {sys.executable} -m stallscan "$@"'
    (programs / "stallscan").write_text(f"#!/bin/sh\n{command}\n")
    (programs / "stallscan").chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"


class Engine:
    """Runs the missing shards of a plan; the base runs them on a pool of this machine."""

    words: tuple[str, ...] = ()

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Start what the engine needs, for all rounds."""
        yield

    def start(self, plan: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start to run what is missing."""
        command = [sys.executable, "-m", "stallscan", "run", str(plan), *self.words]
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file)

    def targets(self, driver: psutil.Process) -> dict[str, list[psutil.Process]]:
        """Return the processes that may be killed, by what they are."""
        return {"driver": [driver], "decoder": _decoders(driver.children(recursive=True))}

    def mend(self) -> None:
        """Do what an administrator does after a machine was lost."""


class Ray(Engine):
    """A Ray cluster of two machines, both of them this one."""

    words = ("--engine", "ray")

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self._options = options
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**options, "include_dashboard": False}
        )
        self._second = self._cluster.add_node(**options)
        os.environ["RAY_ADDRESS"] = self._cluster.address
        try:
            yield
        finally:
            del os.environ["RAY_ADDRESS"]
            self._cluster.shutdown()

    def targets(self, driver: psutil.Process) -> dict[str, list[psutil.Process]]:
        nodes = [
            psutil.Process(node.all_processes[kind][0].process.pid)
            for node in self._cluster.list_all_nodes()
            for kind in ("raylet",)
        ]
        below = [child for node in nodes for child in node.children(recursive=True)]
        second = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        return {
            "driver": [driver],
            "worker": [each for each in below if "_Worker" in _command(each)],
            "decoder": _decoders(below),
            "node": [second],
        }

    def mend(self) -> None:
        if self._second.all_processes["raylet"][0].process.poll() is not None:
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._second = self._cluster.add_node(**self._options)


class Slurm(Engine):
    """SLURM on this machine alone; the driver is a loop that waits for the array."""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        script = ROOT / "deploy" / "test" / "slurm.sh"
        folder = self.scratch / "slurm"
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        make_command(self.scratch)
        subprocess.run([script, "start", folder], check=True)
        try:
            yield
        finally:
            subprocess.run([script, "stop", folder], check=True)

    def start(self, plan: Path, log: Path) -> subprocess.Popen[bytes]:
        submit = f"{ROOT}/deploy/slurm.sh {plan} 100 --cpus-per-task=1 --output={log}.%a"
        wait = 'while [ -n "$(squeue --noheader 2>&1)" ]; do sleep 0.5; done'
        with log.open("ab") as file:
            return subprocess.Popen(["bash", "-c", f"{submit}; {wait}"], stdout=file, stderr=file)

    def targets(self, driver: psutil.Process) -> dict[str, list[psutil.Process]]:
        every: dict[str, list[psutil.Process]] = {
            kind: [] for kind in ("shard", "decoder", "step", "daemon")
        }
        for process in psutil.process_iter(["name"]):
            name = process.info["name"] or ""
            if not name.startswith(("slurmd", "slurmstepd")) or not self._is_ours(process):
                continue
            if name == "slurmd":
                every["daemon"].append(process)
                continue
            every["step"].append(process)
            with contextlib.suppress(psutil.Error):
                below = process.children(recursive=True)
                every["decoder"] += _decoders(below)
                every["shard"] += [each for each in below if "--shard" in _command(each)]
        return every

    def mend(self) -> None:
        named = [each for each in psutil.process_iter(["name"]) if each.info["name"] == "slurmd"]
        if not any(map(self._is_ours, named)):
            subprocess.run(["slurmd", "-N", "node1"], check=True)

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether a process belongs to our SLURM, and not to another one on this machine."""
        with contextlib.suppress(psutil.Error):
            # A step has no environment, but the folder of the daemon that started it.
            return Path(process.cwd()) == Path(os.environ["SLURM_CONF"]).parent
        return False


ENGINES = {"pool": Engine, "ray": Ray, "slurm": Slurm}


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _decoders(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if "multiprocessing.spawn" in _command(each)]


def merged(plan: Path, out: Path) -> dict[str, bytes]:
    """Merge a plan, and return the content of its tables."""
    done = stallscan("merge", plan, "-o", out)
    if done.returncode:
        raise SystemExit(f"merge: exit code {done.returncode}: {done.stderr}")
    return {name: (out / name).read_bytes() for name in TABLES}


def round_of(
    engine: Engine, recordings: Path, folder: Path, rng: random.Random, kills: int
) -> tuple[list[str], int, dict[str, bytes]]:
    """Do a plan with so many kills.

    Returns
    -------
    tuple
        What was killed, when, and after how many shards; the runs that it took; the merged tables.
    """
    plan, log = folder / "plan", folder / "log"
    folder.mkdir(parents=True)
    make_plan(recordings, plan)
    shards = len(list((plan / "lists").iterdir()))
    moments = sorted(rng.uniform(0, 0.95 * shards) for _ in range(kills))
    killed: list[str] = []
    for number in range(1, MOST_RUNS + kills + 1):
        driver = engine.start(plan, log)
        while len(killed) < kills and _wait(driver, plan, moments[len(killed)]):
            if kind := _kill(engine, driver, rng):
                killed.append(f"{kind} after {_count(plan)} shards")
                time.sleep(1)
                engine.mend()
        try:
            driver.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise SystemExit(f"the run did not end within {LIMIT_S} s: {log}") from None
        missing = stallscan("status", plan, "--missing").stdout.split()
        if not missing:
            return killed, number, merged(plan, folder / "out")
        # The workers of a killed driver may still hold their shards.
        time.sleep(1)
    raise SystemExit(f"{len(missing)} shards are missing after {number} runs: {log}")


def _count(plan: Path) -> int:
    return len(list((plan / "results").glob("*.json")))


def _wait(driver: subprocess.Popen[bytes], plan: Path, moment: float) -> bool:
    """Wait until so many shards are done, and a moment more; False if the run ends before."""
    while _count(plan) < int(moment):
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(moment % 1 / 5)
    return driver.poll() is None


def _kill(engine: Engine, driver: subprocess.Popen[bytes], rng: random.Random) -> str | None:
    """Kill a random process of the job; return what it was, None if the run ends before."""
    while driver.poll() is None:
        with contextlib.suppress(psutil.Error):
            every = engine.targets(psutil.Process(driver.pid))
            kinds = [kind for kind in sorted(every) if every[kind]]
            if kinds:
                kind = rng.choice(kinds)
                rng.choice(every[kind]).send_signal(signal.SIGKILL)
                return kind
        time.sleep(0.1)
    return None


def make_plan(recordings: Path, plan: Path, size: int = SHARD_SIZE) -> None:
    """Make a plan with so many recordings in a shard."""
    done = stallscan("plan", recordings, "-o", plan, "--shard-size", size)
    if done.returncode:
        raise SystemExit(f"plan: exit code {done.returncode}: {done.stderr}")


def main() -> None:
    """Do so many rounds, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="pool")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plans", type=int, help="plans that share the kills; one for each kill")
    given = parser.parse_args()
    folder = given.folder.resolve()
    recordings = make_recordings(folder / "recordings", SHARDS * SHARD_SIZE)
    rounds = folder / given.engine
    shutil.rmtree(rounds, ignore_errors=True)
    (rounds / "undisturbed").mkdir(parents=True)
    # Every engine must write what the pool writes.
    plan, log = rounds / "undisturbed" / "plan", rounds / "undisturbed" / "log"
    make_plan(recordings, plan)
    Engine(rounds).start(plan, log).wait(LIMIT_S)
    expected = merged(plan, rounds / "undisturbed" / "out")
    rows = expected["predictions.csv"].count(b"\n") - 1
    say(f"{given.engine}: {rows} rows in {SHARDS} shards")
    say("| plan | killed | runs | tables |")
    say("| ---: | --- | ---: | --- |")
    engine, rng, plans = ENGINES[given.engine](rounds), random.Random(given.seed), 0
    count = given.plans or given.kills
    with engine.ready():
        for number in range(1, count + 1):
            killed, runs, tables = round_of(
                engine, recordings, rounds / f"{number}", rng, given.kills // count
            )
            plans += tables == expected
            same = "equal" if tables == expected else "DIFFERENT"
            say(f"| {number} | {'; '.join(killed)} | {runs} | {same} |")
    say(f"{plans} of {count} equal")
    sys.exit(plans < count)


if __name__ == "__main__":
    main()
