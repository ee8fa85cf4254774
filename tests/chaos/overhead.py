"""Measure what a shard costs each engine, beyond its recordings; needs root.

    python -m tests.chaos.overhead FOLDER

The same recordings are done as one shard and as many. What the engine and all processes that it
starts have computed is counted by a control group, so that other work on the machine matters
little.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos import kills

GROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
RECORDINGS = 40


class Took(NamedTuple):
    """Processor time of all processes, and time passed."""

    cpu_s: float
    seconds: float


def measure(words: Sequence[object]) -> Took:
    """Run a command in a control group of its own."""
    root = next(each for each in GROUPS if (each / "cgroup.procs").exists())
    group = root / f"stallscan-{time.monotonic_ns()}"
    group.mkdir()
    enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    try:
        started = time.monotonic()
        subprocess.run([*enter, *map(str, words)], check=True, capture_output=True)
        seconds = time.monotonic() - started
        (line,) = (
            each for each in (group / "cpu.stat").read_text().splitlines() if "usage" in each
        )
        return Took(int(line.split()[1]) / 1e6, seconds)
    finally:
        (group / "cgroup.kill").write_text("1")
        time.sleep(0.5)
        group.rmdir()


def commands(folder: Path, plan: Path) -> dict[str, list[object]]:
    """Return the command of each engine that this machine has."""
    python = [sys.executable, "-m", "stallscan", "run", plan]
    out = plan.with_name(f"{plan.name}-out")
    found: dict[str, list[object]] = {
        "pool": [*python, "--cores", "2"],
        "ray": [*python, "--cores", "2", "--engine", "ray"],
    }
    if shutil.which("snakemake"):
        given = ["--config", f"plan={plan}", f"out={out}", "cores=1"]
        snakefile = kills.ROOT / "deploy" / "Snakefile"
        found["snakemake"] = ["snakemake", "-s", snakefile, "--cores", "2", *given]
    if shutil.which("slurmctld"):
        slurm = kills.ROOT / "deploy" / "test" / "slurm.sh"
        submit = f"{kills.ROOT}/deploy/slurm.sh {plan} 10 --cpus-per-task=1 --wait"
        script = (
            f"export SLURM_CONF={folder}/slurm/slurm.conf; {slurm} start {folder}/slurm; "
            f"{submit} --output={folder}/%a.log; {slurm} stop {folder}/slurm"
        )
        found["slurm"] = ["bash", "-ec", script]
    return found


def main() -> None:
    """Measure all engines, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--engines", nargs="*")
    given = parser.parse_args()
    folder = given.folder.resolve()
    kills.make_command(folder)
    recordings = kills.make_recordings(folder / "recordings", RECORDINGS)
    kills.say("| engine | CPU s, 1 shard | CPU s a further shard | s a further shard |")
    kills.say("| --- | ---: | ---: | ---: |")
    for engine in given.engines or commands(folder, folder):
        took = []
        for shards in (1, given.shards):
            plan = folder / f"{engine}-{shards}"
            shutil.rmtree(plan, ignore_errors=True)
            shutil.rmtree(plan.with_name(f"{plan.name}-out"), ignore_errors=True)
            kills.make_plan(recordings, plan, RECORDINGS // shards)
            took.append(measure(commands(folder, plan)[engine]))
        one, many = took
        further = given.shards - 1
        kills.say(
            f"| {engine} | {one.cpu_s:.1f} | {(many.cpu_s - one.cpu_s) / further:.2f} | "
            f"{(many.seconds - one.seconds) / further:.2f} |"
        )


if __name__ == "__main__":
    main()
