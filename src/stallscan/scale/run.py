"""Work off the shards of a plan, one after the other, with decoders and nets kept ready.

Several processes, on one machine or on many, can work on the same plan: each claims its next shard.
`missing` and `one` are all that another engine needs.
"""

import collections
import contextlib
import functools
import itertools
import logging
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from stallscan.calls import predict
from stallscan.errors import InputError, StallscanError
from stallscan.recordings.bucket import FetchSettings
from stallscan.recordings.fetch import NetworkError
from stallscan.runs import HeldError
from stallscan.scale import plan as plans
from stallscan.scale import results, shard
from stallscan.scale.fetched import Fetched, Scratch
from stallscan.scale.place import Place, open_place
from stallscan.scale.plan import Plan, name_of
from stallscan.scale.results import Result
from stallscan.scale.shard import Decoders, Job

log = logging.getLogger("stallscan")

# The number of a task in an array of tasks, as schedulers tell it.
TASK_VARIABLES = ("SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX")
# After this many shards in a row that the network failed, the others would fail, too.
FAILURES_IN_A_ROW = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How to work on this machine; nothing of it changes a result."""

    cores: int | None = None  # for decoders and nets together; None for all
    bundle: str | None = None  # where the bundle is, if it was moved
    moved: tuple[str, str] | None = None  # a folder in the plan, and its name here
    scratch: Path | None = None  # for fetched recordings; None for the system's
    at_once: int = 32  # downloads
    limit_mbit: float = 0.0  # bandwidth; 0 for no limit


@dataclass
class Summary:
    """What became of the shards that this run was to do."""

    done: list[int] = field(default_factory=list)
    before: int = 0  # done before
    elsewhere: int = 0  # done by others meanwhile
    held: dict[int, str] = field(default_factory=dict)  # others work on them: who
    failed: dict[int, str] = field(default_factory=dict)  # the network failed them: why
    recordings: int = 0  # in the shards that were done
    unscorable: int = 0  # of these

    def add(self, number: int, result: Result) -> None:
        """Count a finished shard."""
        self.done.append(number)
        self.recordings += result.recordings
        self.unscorable += result.calls.get("unscorable", 0)

    def join(self, other: "Summary") -> None:
        """Count what another worker of the same run has done."""
        self.done += other.done
        self.elsewhere += other.elsewhere
        self.held |= other.held
        self.failed |= other.failed
        self.recordings += other.recordings
        self.unscorable += other.unscorable

    def __str__(self) -> str:
        words = [
            f"{len(self.done):,} shards done ({self.recordings:,} recordings, "
            f"{self.unscorable:,} without a call)"
        ]
        if self.before:
            words.append(f"{self.before:,} were done before")
        if self.elsewhere:
            words.append(f"{self.elsewhere:,} were done by others meanwhile")
        if self.failed:
            words.append(f"{len(self.failed):,} failed")
        for number, owner in self.held.items():
            words.append(f"{name_of(number)} is in work by {owner}")
        return "; ".join(words)


def missing(place: Place, plan: Plan) -> list[int]:
    """Return the numbers of the shards without a result, in order."""
    finished = place.names("results")
    return [number for number in plan.shards if f"{name_of(number)}.json" not in finished]


def todo(place: Place, plan: Plan) -> list[int]:
    """Return the shards to do: the missing ones, or, if there are none, those found damaged.

    The damaged results are removed. All results are read for that, so not while any is missing.
    """
    if not missing(place, plan):
        results.remove_damaged(place, plan)
    return missing(place, plan)


def one(
    where: str, number: int, options: Options, progress: Progress = lambda _done, _of: None
) -> Result:
    """Do one shard from scratch, unless it has a whole result; return its result.

    This is all that a task of a scheduler does. Any number of tasks may do the same shard.

    Raises
    ------
    InputError
        If there is no such shard (`check_number`), another process works on it (`HeldError`), or
        its recordings cannot be fetched (`NetworkError`).
    StallscanError
        As for `shard.opened` and `shard.do`; results.ResultError if its result is that of another
        plan.
    """
    place = open_place(where)
    plan = plans.read(place)
    check_number(place, plan, number)
    if (result := results.read(place, plan, number)) is not None:
        return result
    with (
        shard.opened(place, plan, options.cores, options.bundle, options.moved) as job,
        _scratch(plan, options) as scratch,
        job.place.claim(name_of(number)),
    ):
        # Another task may have finished it while this one loaded the nets.
        if (result := results.read(place, plan, number)) is not None:
            return result
        done = itertools.count(1)
        with _fetching(job, scratch, number) as coming:
            return _do(job, number, coming, lambda: progress(next(done), plan.size(number)))


def work(where: str, options: Options, progress: Progress = lambda _done, _of: None) -> Summary:
    """Do the shards of a plan that are missing or damaged, one after the other.

    Parameters
    ----------
    where : str
        The plan.
    progress : callable
        Called with the number of finished recordings in the plan, also by others, and of all.

    Raises
    ------
    StallscanError
        As for `shard.opened` and `shard.do`. Finished shards are kept.
    """
    place = open_place(where)
    plan = plans.read(place)
    numbers = todo(place, plan)
    summary = Summary(before=len(plan.lists) - len(numbers))
    progress(rows(plan, numbers), plan.recordings)
    if numbers:
        with opened(place, plan, options) as do:
            summary.join(do(numbers, progress))
    return summary


@contextlib.contextmanager
def opened(
    place: Place, plan: Plan, options: Options, decoders: Decoders | None = None
) -> Iterator[Callable[[Sequence[int], Progress], Summary]]:
    """Open a plan, and yield what does some of its shards, one after the other.

    Parameters
    ----------
    decoders : callable, optional
        What prepares recordings instead of processes of this machine, as for `shard.opened`.

    Raises
    ------
    StallscanError
        As for `shard.opened`.
    """
    with (
        shard.opened(place, plan, options.cores, options.bundle, options.moved, decoders) as job,
        _scratch(plan, options) as scratch,
    ):
        yield functools.partial(_work_off, job, scratch)


def _work_off(
    job: Job, scratch: Scratch | None, numbers: Sequence[int], progress: Progress
) -> Summary:
    place, plan, summary = job.place, job.plan, Summary()
    done = rows(plan, missing(place, plan))
    with contextlib.closing(_claims(job, scratch, numbers, summary)) as claims:
        in_a_row = 0
        for number, coming in claims:
            counted = done

            def advance() -> None:
                nonlocal done
                done += 1
                progress(done, plan.recordings)

            try:
                summary.add(number, _do(job, number, coming, advance))
                in_a_row = 0
            except NetworkError as error:
                log.warning("%s: %s", name_of(number), error)
                summary.failed[number] = str(error)
                done = counted
                in_a_row += 1
                if in_a_row == FAILURES_IN_A_ROW:
                    break
            # Others may have finished some.
            done = max(done, rows(plan, missing(place, plan)))
            progress(done, plan.recordings)
    return summary


def check_number(place: Place, plan: Plan, number: int) -> None:
    """Raise InputError if a plan has no such shard."""
    if number not in plan.shards:
        raise InputError(
            f"{place.where}: has no shard {number}. Its {len(plan.lists):,} shards have the "
            f"numbers 0 to {len(plan.lists) - 1}"
        )


def rows(plan: Plan, numbers: Sequence[int]) -> int:
    """Return the number of recordings that are not in these shards."""
    return plan.recordings - sum(map(plan.size, numbers))


def _do(
    job: Job, number: int, coming: "Future[Fetched] | None", progress: Callable[[], None]
) -> Result:
    """Do a claimed shard, and record why it fails if it does."""
    try:
        result = shard.do(job, number, coming.result() if coming else None, progress)
    except StallscanError as error:
        note = {"reason": str(error), "at": predict.now(), "host": platform.node()}
        with contextlib.suppress(InputError):
            results.record_failure(job.place, number, note)
        raise
    with contextlib.suppress(InputError):
        job.place.remove(results.FAILURE_NAME.format(name_of(number)))
    return result


def _scratch(plan: Plan, options: Options) -> contextlib.AbstractContextManager[Scratch | None]:
    if plan.kind != "urls":
        return contextlib.nullcontext()
    given = {
        "endpoint": plan.endpoint,
        "at_once": options.at_once,
        "limit_mbit": options.limit_mbit,
    }
    return Scratch(options.scratch, FetchSettings.parse(given, "run"))


def _fetching(
    job: Job, scratch: Scratch | None, number: int
) -> contextlib.AbstractContextManager["Future[Fetched] | None"]:
    """Begin to fetch a shard if its recordings are in a bucket."""
    if scratch is None:
        return contextlib.nullcontext()
    return scratch.fetching(lambda: plans.read_list(job.place, job.plan, number))


def _claims(
    job: Job, scratch: Scratch | None, numbers: Sequence[int], summary: Summary
) -> Generator[tuple[int, "Future[Fetched] | None"], None, None]:
    """Claim shard after shard, and yield each with its recordings.

    While a shard is done, the next one is fetched: at most two are on disk.
    """
    waiting = collections.deque(numbers)
    is_second = False

    def claim() -> tuple[int, contextlib.ExitStack, "Future[Fetched] | None"] | None:
        nonlocal is_second
        while waiting:
            number = waiting.popleft()
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(job.place.claim(name_of(number)))
                except HeldError as error:
                    summary.held[number] = error.owner
                # Another process may have finished it meanwhile.
                else:
                    if job.place.read(plans.result_name(number)) is None:
                        coming = stack.enter_context(_fetching(job, scratch, number))
                        return number, stack.pop_all(), coming
                    summary.elsewhere += 1
            if not waiting and not is_second:
                # Others may have been killed since.
                is_second = True
                waiting.extend(summary.held)
                summary.held.clear()
        return None

    with contextlib.ExitStack() as rest:
        current = claim()
        while current is not None:
            number, stack, coming = current
            rest.push(stack)
            upcoming = None
            if scratch is not None and (upcoming := claim()) is not None:
                rest.push(upcoming[1])
            yield number, coming
            stack.close()
            current = upcoming if upcoming is not None else claim()
