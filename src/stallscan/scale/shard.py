"""Do one shard with a given number of cores: fetch, prepare and predict in one pass."""

import collections
import contextlib
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2

from stallscan import cores, files
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls import inputs, predict, resume, rows, written
from stallscan.calls.inputs import Inputs
from stallscan.clips import prepare
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.store import Store
from stallscan.cores import Budget
from stallscan.engines import choose
from stallscan.engines.choose import Engine
from stallscan.errors import InputError, StoreError, UnreadableError
from stallscan.recordings.find import Source
from stallscan.scale import plan as plans
from stallscan.scale import results
from stallscan.scale.fetched import Fetched
from stallscan.scale.place import Place
from stallscan.scale.plan import Item, Plan
from stallscan.scale.results import Made, Result
from stallscan.stamps import Stamp
from stallscan.words import printable

# Stages of `cores.Budget`, and their names in results.
_STAGES = {"workers": "prepare", "net": "predict"}

Many = Callable[[Sequence[Source]], Generator[Prepared, None, None]]
# Starts what prepares files for each of the views, and ends it.
Decoders = Callable[[Plan, Sequence[Preprocessing]], contextlib.AbstractContextManager[Many]]


class MovedError(InputError):
    """The recordings of a plan are not where they were."""


@dataclass(frozen=True)
class Job:
    """A plan that is opened: bundle, engines and decoding processes, ready for its shards."""

    place: Place
    plan: Plan
    model: Bundle | Ensemble
    engines: Sequence[Engine]
    many: Many  # prepares files; its processes start with the first one
    store: Store | None
    budget: Budget
    moved: tuple[str, str] | None  # the start of paths in the plan, and what it is here


@contextlib.contextmanager
def opened(
    place: Place,
    plan: Plan,
    core_count: int | None = None,
    bundle: str | None = None,
    moved: tuple[str, str] | None = None,
    decoders: Decoders | None = None,
) -> Iterator[Job]:
    """Open a plan for work on its shards.

    Parameters
    ----------
    core_count : int, optional
        Cores that decoders and nets use together; by default all that this process may use.
    bundle : str, optional
        Where the bundle is, if it was moved.
    moved : tuple of str, optional
        A folder as it is named in the plan, and its name on this machine.
    decoders : callable, optional
        What prepares files elsewhere; by default, processes of this machine do.

    Raises
    ------
    BundleError
        If the bundle is gone or has changed.
    InputError
        If the engine cannot be used here, or the recordings are not where they were (`MovedError`).
    StoreError
        If the plan's store is damaged.
    """
    model = plan.load_model(bundle)
    _refuse_missing(plan, moved)
    with cores.limited(core_count) as budget, contextlib.ExitStack() as stack:
        # Decoders have a process each, and nets a thread for each clip.
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)
        engines = choose.choose(model, plan.engine, "as planned").engines  # type: ignore[arg-type]
        clips = plans.open_store(plan) if plan.kind == "store" else None
        views = [member.spec.view for member in model.members]
        many = stack.enter_context(decoders(plan, views) if decoders else prepare.keep(views))
        yield Job(place, plan, model, engines, many, clips, budget, moved)


def do(
    job: Job,
    number: int,
    fetched: Fetched | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Do one shard and write its result.

    Parameters
    ----------
    fetched : Fetched, optional
        The recordings of a shard whose plan has urls.
    progress : callable
        Called after each recording.

    Raises
    ------
    InputError, StoreError
        If the shard's list has changed, its clips have, or the result cannot be written.
    """
    began, started = predict.now(), time.monotonic()
    before = dict(job.budget.seconds)
    items = plans.read_list(job.place, job.plan, number)
    predicted = _predict(job, items, fetched, progress)
    seconds = {
        name: round(job.budget.seconds[stage] - before.get(stage, 0.0), 3)
        for stage, name in _STAGES.items()
    }
    seconds["fetch"] = round(fetched.seconds, 3) if fetched else 0.0
    seconds["all"] = round(time.monotonic() - started, 3)
    tables = {name: "".join(lines) for name, lines in predicted.lines.items()}
    result = Result(
        shard=number,
        shards=len(job.plan.lists),
        bundle_sha256=job.plan.bundle_sha256,
        list_sha256=job.plan.lists[number],
        engine=job.plan.engine,
        consistency=job.plan.consistency,
        **files.provenance(),
        recordings=len(items),
        calls=dict(sorted(predicted.calls.items())),
        statuses=dict(sorted(predicted.statuses.items())),
        tables=tables,
        tables_sha256=results.hash_of(tables),
        made=Made(
            started=began,
            finished=predict.now(),
            host=platform.node(),
            cores=job.budget.cores,
            seconds=seconds,
        ),
    )
    job.place.write(plans.result_name(number), results.dump(result))
    return result


class _Predicted(NamedTuple):
    """The rows of a shard."""

    lines: dict[str, list[str]]  # of each table
    calls: collections.Counter[str]
    statuses: collections.Counter[str]


def _predict(
    job: Job, items: Sequence[Item], fetched: Fetched | None, progress: Callable[[], None]
) -> _Predicted:
    given = _given(job, items, fetched)
    pairs = zip(given.sources, given.stamps, strict=True)
    stamps = {source.filename: stamp for source, stamp in pairs if stamp is not None}
    lines: dict[str, list[str]] = {name: [] for name in written.TABLES}
    calls, statuses = collections.Counter[str](), collections.Counter[str]()
    # In reasons, a fetched recording is called by its url, not by its temporary path.
    names = {
        item.filename: (printable(str(source.path)), item.where)
        for item, source in zip(items, given.sources, strict=True)
        if fetched is not None
    }
    with contextlib.closing(given.stream(given.sources)) as todo:
        for answer in rows.answer(todo, stamps, job.model, job.engines, job.plan.consistency):
            if name := names.get(answer.row["filename"]):
                answer.row["reason"] = answer.row["reason"].replace(*name)
            for table, line in resume.as_lines(answer).items():
                lines[table].append(line)
            calls[answer.row["call"]] += 1
            statuses[answer.row["status"]] += 1
            progress()
    return _Predicted(lines, calls, statuses)


def _given(job: Job, items: Sequence[Item], fetched: Fetched | None) -> Inputs:
    """Return the recordings of a shard, and how to get their clips."""
    if fetched is not None:
        return _given_urls(job, items, fetched)
    if job.store is not None:
        return _given_clips(job, items, job.store)
    sources = [Source(item.filename, _here(item.where, job.moved)) for item in items]
    return Inputs(sources, [Stamp.of(source.path) for source in sources], job.many)


def _given_clips(job: Job, items: Sequence[Item], clips: Store) -> Inputs:
    found = {row.filename: row for row in clips.rows([item.filename for item in items])}
    changed = [
        item.filename
        for item in items
        if item.filename not in found or found[item.filename].as_stamp().sha256 != item.where
    ]
    if changed:
        raise StoreError(
            f"{clips.folder}: has changed since the plan was made ({changed[0]}). Make the plan "
            "again in another folder"
        )
    rows_of = [found[item.filename] for item in items]
    return inputs.of_store(clips, rows_of, len(job.model.members))


def _given_urls(job: Job, items: Sequence[Item], fetched: Fetched) -> Inputs:
    sources = [Source(item.filename, fetched.folder / item.filename) for item in items]

    def stream(todo: Sequence[Source]) -> Generator[Prepared, None, None]:
        there = job.many([source for source in todo if source.filename not in fetched.missing])
        for source, item in zip(todo, items, strict=True):
            if reason := fetched.missing.get(source.filename):
                reason = f"{item.where}: {reason}. Correct the url, or leave the recording out"
                yield Prepared(source, UnreadableError.status, reason)
            else:
                yield next(there)

    stamps = [fetched.stamps.get(source.filename) for source in sources]
    return Inputs(sources, stamps, stream)


def _refuse_missing(plan: Plan, moved: tuple[str, str] | None) -> None:
    """Refuse to work where a whole folder is gone: each of its recordings would be a failed row."""
    if plan.kind != "files":
        return
    folders = [_here(folder, moved) for folder in plan.folders]
    if gone := [folder for folder in folders if not _has_files(folder)]:
        raise MovedError(
            f"{gone[0]}: this folder of the plan is empty or missing on this machine. Mount it, or "
            "say where it is with --moved PLANNED=HERE (PLANNED: its full path in the plan)"
        )


def _here(planned: str, moved: tuple[str, str] | None) -> Path:
    """Return where a file or folder of the plan is on this machine."""
    if moved:
        # A plan made with a relative path, such as ../recordings, has dots in the middle.
        start, path = (Path(os.path.normpath(each)) for each in (moved[0], planned))
        if path.is_relative_to(start):
            return Path(moved[1], path.relative_to(start))
    return Path(planned)


def _has_files(folder: Path) -> bool:
    """Return whether there is anything in a folder; that of a lost drive is missing or empty."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
