"""Merge the results of a plan into the tables that `predict` writes, in the order of the plan."""

import collections
import contextlib
import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from stallscan import files, runs
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls import predict, written
from stallscan.calls.predict import PredictionSummary
from stallscan.calls.rows import remarks
from stallscan.errors import InputError
from stallscan.runs import PREDICTIONS_NAME, RUN_NAME
from stallscan.scale import plan as plans
from stallscan.scale import results, run
from stallscan.scale.place import Place
from stallscan.scale.plan import Plan, name_of
from stallscan.scale.results import Result
from stallscan.words import counted, listed

log = logging.getLogger("stallscan")

# Missing shards that a message names.
NAMED = 20


class GapError(InputError):
    """Shards of the plan have no result."""


def merge(
    place: Place,
    out: Path,
    bundle: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> PredictionSummary:
    """Write the tables of all shards into a folder, as `predict.predict` would have.

    ``predictions.csv``, ``traits.csv`` and ``sources.csv`` are the same, byte for byte.
    ``run.json`` says which plan they come from.

    Parameters
    ----------
    place : Place
        The plan.
    out : Path
        Folder for the tables. One with the tables of the same plan is written again.
    bundle : str, optional
        Where the bundle is, if it was moved.
    progress : callable
        Called with the number of merged shards and of all.

    Raises
    ------
    GapError
        If shards are missing; it names them. Nothing is written.
    InputError
        If a result is damaged or of another plan (`results.ResultError`), a recording occurs twice,
        or `out` has something else. Nothing is written.
    BundleError
        If the bundle is gone or has changed.
    """
    plan = plans.read(place)
    _refuse_gaps(place, plan)
    model = plan.load_model(bundle)
    note = _describe(place, plan, model)
    with runs.hold(out):
        _refuse_other(out, note)
        merged = _Merged(place, plan)
        with contextlib.ExitStack() as stack:
            tables = {}
            for name, columns in written.TABLES.items():
                path = stack.enter_context(files.atomic_path(out / name))
                tables[name] = stack.enter_context(path.open("wb"))
                tables[name].write(files.csv_line(columns).encode())
            merged.write(tables, progress)
            note |= merged.describe()
            # Before the tables appear under their names: without it, nobody knows whose they are.
            files.write_json(out / RUN_NAME, note)
        calibrated_at = plan.load_trained(bundle).spec.prevalence
        drift = predict.measure_drift(model, calibrated_at, out)
        note |= {"finished": predict.now(), "drift": drift.figures}
        files.write_json(out / RUN_NAME, note)
    counts = collections.Counter[runs.Why]()
    return PredictionSummary(
        out / PREDICTIONS_NAME,
        merged.calls,
        counts,
        drift.doubts,
        model.spec.simulated,
        learned=merged.remarks[runs.LEARNED],
        remarks=merged.remarks["others"],
    )


class _Merged:
    """The results of a plan, read one after the other."""

    def __init__(self, place: Place, plan: Plan) -> None:
        self._place, self._plan = place, plan
        self.calls, self._statuses = collections.Counter[str](), collections.Counter[str]()
        self.remarks = collections.Counter[str]()  # on calls, by their kind
        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        # Each once, in order: versions of stallscan with their commits.
        self._versions: dict[tuple[str, str | None], None] = {}
        self._started: list[str] = []
        self._filenames: set[str] = set()

    def write(self, tables: Mapping[str, BinaryIO], progress: Callable[[int, int], None]) -> None:
        """Add the rows of all results to open tables."""
        numbers = self._plan.shards
        contents = self._place.read_all(map(plans.result_name, numbers))
        lists = self._place.read_all(map(plans.list_name, numbers))
        for number, content, listed_here in zip(numbers, contents, lists, strict=True):
            if content is None:
                raise _gap(self._place, [number])
            result = results.check(content, self._place, self._plan, number)
            items = plans.parse_list(listed_here, self._place, self._plan, number)
            self._check_names(result, [item.filename for item in items])
            self._count(result)
            for name, file in tables.items():
                file.write(result.tables[name].encode("utf-8", "backslashreplace"))
            progress(number + 1, len(numbers))

    def describe(self) -> dict[str, Any]:
        """Return entries of ``run.json``."""
        if len(self._versions) > 1:
            log.warning(
                "%s: its results were made with several versions of stallscan (%s). To use one "
                "version for all of them, make another plan",
                self._place.where,
                ", ".join(_say_version(*version) for version in self._versions),
            )
        version, git = next(iter(self._versions))
        return {
            "stallscan": version,
            "git": git,
            "versions": list(dict.fromkeys(version for version, _ in self._versions)),
            "started": min(self._started),
            "calls": self.calls,
            "statuses": self._statuses,
            "seconds": {stage: round(spent, 3) for stage, spent in self._seconds.items()},
        }

    def _check_names(self, result: Result, names: list[str]) -> None:
        """Raise InputError if the rows are not those of the list, or a recording occurs twice."""
        text = io.StringIO(result.tables[PREDICTIONS_NAME], newline="")
        rows = list(csv.DictReader(text, fieldnames=runs.PREDICTION_COLUMNS))
        if [row["filename"] for row in rows] != names:
            raise InputError(
                f"{self._place.where}/{plans.result_name(result.shard)}: its rows are not those of "
                f"the shard's list. Remove the file, and do {name_of(result.shard)} again with "
                f"'stallscan run {self._place.where}'"
            )
        for row in rows:
            self.remarks.update(remarks(row))
        before = len(self._filenames)
        self._filenames.update(names)
        if len(self._filenames) < before + len(names):
            raise InputError(
                f"{self._place.where}/{plans.list_name(result.shard)}: a recording of "
                f"{name_of(result.shard)} occurs twice in this plan. Make the plan again in "
                "another folder"
            )

    def _count(self, result: Result) -> None:
        self.calls.update(result.calls)
        self._statuses.update(result.statuses)
        self._started.append(result.made.started)
        self._versions[result.stallscan, result.git] = None
        for stage, seconds in result.made.seconds.items():
            self._seconds[stage] += seconds


def _describe(place: Place, plan: Plan, model: Bundle | Ensemble) -> dict[str, Any]:
    """Return the ``run.json`` of the merged tables, as far as the plan determines it."""
    # Recordings in a bucket have no path.
    paths = [] if plan.kind == "urls" else plan.paths
    note = predict.describe(paths, model, plan.recordings, plan.prevalence, plan.engine)
    note |= {"passed_over": plan.passed_over}
    if plan.consistency:
        note["consistency"] = True
    note["plan"] = {
        "place": place.where if "://" in place.where else str(Path(place.where).resolve()),
        "sha256": plan.identify(),
        "shards": len(plan.lists),
        "shard_size": plan.shard_size,
        "recordings": plan.kind,
        "given": plan.paths,
        "merged_by": files.provenance(),
    }
    return note


def _refuse_gaps(place: Place, plan: Plan) -> None:
    if missing := run.missing(place, plan):
        raise _gap(place, missing)


def _gap(place: Place, missing: Sequence[int]) -> GapError:
    names = [name_of(number) for number in missing]
    return GapError(
        f"{place.where}: {counted(len(missing), 'shard')} without a result: "
        f"{listed(names, NAMED)}. Continue with 'stallscan run {place.where}'"
    )


def _refuse_other(out: Path, note: dict[str, Any]) -> None:
    """Refuse a folder with other predictions."""
    if not (out / PREDICTIONS_NAME).exists():
        return
    before = runs.read_note(out / RUN_NAME, "predictions") or {}
    of_plan = before.get("plan")
    is_same = isinstance(of_plan, dict) and of_plan.get("sha256") == note["plan"]["sha256"]
    if not is_same or "decision" in before:
        raise InputError(
            f"{out}: holds predictions that do not come from this plan. Choose another folder with "
            "-o, or remove this one"
        )


def _say_version(version: str, git: str | None) -> str:
    return f"{version} at {git}" if git else version
