"""Commands for large jobs in shards: plan, run, status, merge."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import (
    EXIT_FAILED_ROWS,
    Out,
    command,
    print_line,
    say,
    show_progress,
)

if TYPE_CHECKING:
    from stallscan.scale.run import Options


@command
def plan(
    *paths: Path,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    bundle: str = "default",
    shard_size: int = 512,
    prevalence: float | None = None,
    net_engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"] = "auto",
    consistency: bool = False,
    endpoint: str = "",
) -> None:
    """Plan a large job: split recordings into shards that any number of machines can do.

    Example: stallscan plan train_metadata.csv -o plan

    Parameters
    ----------
    paths
        Recordings and folders of recordings, one store of clips, or the competition's
        train_metadata.csv or test_metadata.csv: then each shard is fetched from the bucket,
        predicted and deleted.
    out
        Where to write the plan: a folder that all machines see, or s3://bucket/prefix.
    bundle
        Name of a shipped bundle, or the folder of a bundle or ensemble that all machines see.
    shard_size
        Number of recordings in a shard.
    prevalence
        Expected share of stalled recordings (0.02), as for 'stallscan predict'.
    net_engine
        What runs the nets on all machines. auto chooses here, as 'stallscan predict' does.
    consistency
        Score each recording also with nine changes, as for 'stallscan predict'.
    endpoint
        URL of another S3-compatible server with the recordings of the table.
    """
    from stallscan.errors import InputError
    from stallscan.scale import plan as plans
    from stallscan.scale.place import open_place
    from stallscan.words import counted

    if not paths:
        raise InputError("no recordings given. Name them: stallscan plan PATH... -o PLAN")
    planned = plans.make(
        paths, open_place(out), bundle, shard_size, prevalence, net_engine, consistency, endpoint
    )
    made = planned.plan
    shards = counted(len(made.lists), "shard")
    recordings = counted(made.recordings, "recording")
    already = "" if planned.is_new else " (the same plan was there already)"
    print_line(f"{recordings} in {shards}, {made.bundle}, engine {made.engine} -> {out}{already}")


@command
def run(
    where: Annotated[str, Parameter(name="plan")],
    /,
    *,
    shard: int | None = None,
    engine: Literal["pool", "ray"] = "pool",
    cores: int | None = None,
    bundle: str | None = None,
    moved: str | None = None,
    scratch: Path | None = None,
    at_once: int = 32,
    limit_mbit: float = 0.0,
) -> None:
    """Do the shards of a plan that are not done yet, or one of them.

    Run it as often and on as many machines as you like: each claims its next shard. An interrupted
    run loses at most the shard in work. When none is missing, it reads all results and does those
    again that are damaged. Exits with code 1 if the network failed a shard, or the
    given shard is in work elsewhere.

    Example: stallscan run plan --cores 8

    Parameters
    ----------
    where
        The plan: its folder, or s3://bucket/prefix.
    shard
        Do only this one, counted from 0. By default, SLURM_ARRAY_TASK_ID or
        AWS_BATCH_JOB_ARRAY_INDEX if set, otherwise all.
    engine
        pool: one shard after the other, on the cores of this machine. ray: on all machines of the
        Ray cluster at RAY_ADDRESS, on GPUs if the plan's engine is torch; without an address, on
        this machine.
    cores
        Number of cores that decoders and nets use together. By default, all that this process may
        use: affinity, quotas of containers, and SLURM_CPUS_PER_TASK.
    bundle
        Where the bundle is, if not where it was when the plan was made.
    moved
        PLANNED=HERE: a folder with recordings as it is named in the plan, and on this machine.
    scratch
        Folder for fetched recordings, at most two shards (2.5 GB with 512 recordings each).
        By default, that of the system.
    at_once
        Number of downloads at the same time.
    limit_mbit
        Bandwidth limit in Mbit/s. By default, none.
    """
    from stallscan.errors import InputError
    from stallscan.scale import run as runner

    if cores is not None and cores < 1:
        raise InputError(f"--cores {cores}: expected 1 or more")
    options = runner.Options(cores, bundle, _moved(moved), scratch, at_once, limit_mbit)
    if engine == "ray":
        if shard is not None:
            raise InputError("--shard is one shard on this machine. Leave out --engine ray")
        from stallscan.scale import ray_engine

        work = ray_engine.work
    else:
        if shard is None:
            shard = _task_number()
        if shard is not None:
            _run_one(where, shard, options)
            return
        work = runner.work
    with show_progress("predicting") as progress:
        summary = work(where, options, progress)
    print_line(str(summary))
    for number, reason in summary.failed.items():
        say(f"shard {number} is not done: {reason}")
    if summary.failed:
        sys.exit(EXIT_FAILED_ROWS)


@command
def status(
    where: Annotated[str, Parameter(name="plan")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    missing: bool = False,
) -> None:
    """Show how far a plan is: done, missing, failed and damaged shards, rate and time left.

    Example: stallscan status plan

    Parameters
    ----------
    where
        The plan: its folder, or s3://bucket/prefix.
    as_json
        Print it as JSON, with all missing shards.
    missing
        Print only the numbers of the missing and damaged shards, one per line, for scripts that
        submit them.
    """
    from stallscan.errors import InputError
    from stallscan.scale import status
    from stallscan.scale.place import open_place

    if as_json and missing:
        raise InputError("--json has the missing shards, too. Leave out --missing, or --json")
    with show_progress("reading results") as progress:
        found = status.look(open_place(where), progress)
    if missing:
        print_line("\n".join(map(str, sorted([*found.missing, *found.broken]))))
    elif as_json:
        print_line(json.dumps(found.as_dict(), indent=2))
    else:
        print_line(str(found))


@command
def merge(
    where: Annotated[str, Parameter(name="plan")], /, *, out: Out, bundle: str | None = None
) -> None:
    """Merge the results of a plan into one table, as 'stallscan predict' would have written it.

    Exits with code 2 if shards are missing, and names them.

    Example: stallscan merge plan -o results

    Parameters
    ----------
    where
        The plan: its folder, or s3://bucket/prefix.
    out
        Folder for predictions.csv, run.json, traits.csv and sources.csv.
    bundle
        Where the bundle is, if not where it was when the plan was made.
    """
    from stallscan.cli.calling import print_summary
    from stallscan.scale import merge
    from stallscan.scale.place import open_place

    with show_progress("merging shards") as progress:
        summary = merge.merge(open_place(where), out, bundle, progress)
    print_summary(summary)


def _run_one(where: str, shard: int, options: "Options") -> None:
    from stallscan.recordings.fetch import NetworkError
    from stallscan.runs import HeldError
    from stallscan.scale import run as runner
    from stallscan.scale.plan import name_of

    try:
        with show_progress(name_of(shard)) as progress:
            result = runner.one(where, shard, options, progress)
    except HeldError as error:
        say(f"{name_of(shard)} is in work by {error.owner}")
        sys.exit(EXIT_FAILED_ROWS)
    except NetworkError as error:
        say(f"{name_of(shard)} is not done: {error}")
        sys.exit(EXIT_FAILED_ROWS)
    counts = ", ".join(f"{number} {call}" for call, number in result.calls.items())
    print_line(f"{name_of(shard)}: {counts} -> {where}")


def _task_number() -> int | None:
    """Return the number of this task of a scheduler's array; None outside of one."""
    from stallscan.errors import InputError
    from stallscan.scale.run import TASK_VARIABLES

    for name in TASK_VARIABLES:
        if value := os.environ.get(name):
            if not value.isdecimal():
                raise InputError(f"{name}={value}: expected a number. Name the shard with --shard")
            say(f"doing shard {value}, from {name}. To do all of them, unset it")
            return int(value)
    return None


def _moved(given: str | None) -> tuple[str, str] | None:
    from stallscan.errors import InputError

    if given is None:
        return None
    planned, _, here = given.partition("=")
    if not planned or not here:
        raise InputError(f"--moved {given}: expected PLANNED=HERE, two folders")
    return planned, here
