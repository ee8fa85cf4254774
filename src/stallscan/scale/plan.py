"""The plan: what is done with which recordings, in lists of a few hundred.

A plan has the file ``plan.json`` and a list for each shard, ``lists/shard-0000.csv``. Results are
added beside them (`results`). Nothing of a plan changes once it is made.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from stallscan import documents, files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls import predict
from stallscan.catalog import tables
from stallscan.clips import store
from stallscan.engines import choose
from stallscan.engines.choose import Which
from stallscan.errors import BundleError, InputError, SettingsError
from stallscan.recordings import fetch, find
from stallscan.recordings.bucket import FetchSettings
from stallscan.recordings.fetch import Wanted
from stallscan.runs import differences
from stallscan.scale.place import Place
from stallscan.settings import Settings
from stallscan.words import listed

PLAN_NAME = "plan.json"
LIST_NAME, RESULT_NAME = "lists/{}.csv", "results/{}.json"
FORMAT = 1
SHARD_SIZE = 512
# More are slow to list, and no scheduler takes as many tasks.
MOST_SHARDS = 100_000
# Suffixes of a table of metadata, which is not a recording.
TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt")

Kind = Literal["files", "store", "urls"]
# The second column of a list: what identifies a recording besides its name.
COLUMNS: dict[Kind, str] = {"files": "path", "store": "clip", "urls": "url"}


class Item(NamedTuple):
    """A recording of a shard."""

    filename: str  # its name in every table
    where: str  # absolute path, url, or the hash of a store's clip and row


class Plan(Settings):
    """The content of ``plan.json``."""

    format: Literal[1] = 1
    kind: Kind  # what the recordings are: files, clips of a store, or objects in a bucket
    paths: tuple[str, ...]  # what was given, as absolute paths
    folders: tuple[str, ...]  # those that were folders
    endpoint: str  # of the bucket with the recordings; empty for Amazon S3
    bundle: str  # label
    bundle_path: str  # folder, or name of a shipped bundle
    bundle_sha256: str  # of everything in the bundle that determines rows
    threshold: float
    prevalence: float | None  # that was asked for; None for the bundle's own
    engine: str  # runs the net, in every shard
    consistency: bool
    shard_size: int = Field(ge=1)
    recordings: int = Field(ge=1)
    lists: tuple[str, ...]  # SHA-256 of the list of each shard
    passed_over: dict[str, Any]  # as `find.PassedOver.as_dict` returns it
    made: dict[str, Any]  # when, and by which version

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if len(self.lists) != -(-self.recordings // self.shard_size):
            raise ValueError(
                f"{self.recordings:,} recordings in shards of {self.shard_size:,} do not make "
                f"{len(self.lists):,} lists"
            )
        return self

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(len(self.lists))

    def size(self, number: int) -> int:
        """Return the number of recordings of a shard."""
        return min(self.shard_size, self.recordings - number * self.shard_size)

    def identify(self) -> str:
        """Return a hash of everything that determines the rows of the plan."""
        content = self.model_dump_json(exclude={"made", "passed_over", "bundle_path"})
        return files.sha256_of(content.encode("utf-8", "backslashreplace"))

    def load_trained(self, moved_to: str | None = None) -> Bundle | Ensemble:
        """Open the bundle as it was trained, at its own prevalence; otherwise as `load_model`."""
        try:
            return disk.load_any(moved_to or self.bundle_path)
        except BundleError as error:
            raise BundleError(
                f"{error}. If the bundle of this plan is elsewhere now, add --bundle FOLDER"
            ) from None

    def load_model(self, moved_to: str | None = None) -> Bundle | Ensemble:
        """Open the bundle, at the planned prevalence.

        Parameters
        ----------
        moved_to : str, optional
            Where the bundle is on this machine, if not where it was when the plan was made.

        Raises
        ------
        BundleError
            If it is missing, or not the bundle that the plan was made with.
        """
        model = predict.at_prevalence(self.load_trained(moved_to), self.prevalence)
        if fingerprint(model) != self.bundle_sha256:
            raise BundleError(
                f"{model.path}: is not the bundle that this plan was made with, {self.bundle} "
                "(its settings, weights or learned.json differ). Restore it, or make another plan"
            )
        return model


class Planned(NamedTuple):
    """A plan, and whether it existed already."""

    plan: Plan
    is_new: bool


def name_of(number: int) -> str:
    """Return the name of a shard."""
    return f"shard-{number:04d}"


def list_name(number: int) -> str:
    """Return the name of a shard's list."""
    return LIST_NAME.format(name_of(number))


def result_name(number: int) -> str:
    """Return the name of a shard's result."""
    return RESULT_NAME.format(name_of(number))


def make(
    paths: Sequence[str | Path],
    place: Place,
    bundle: str | Path = disk.DEFAULT,
    shard_size: int = SHARD_SIZE,
    prevalence: float | None = None,
    engine: Which = "auto",
    consistency: bool = False,
    endpoint: str = "",
) -> Planned:
    """Plan the prediction of recordings in shards.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, one store, or one table of the competition's metadata: its recordings
        are fetched, shard by shard. Recordings of such a table are not looked at.
    place : Place
        Where to write the plan.
    bundle, prevalence, engine, consistency
        As for `predict.predict`. The engine is chosen here, for all shards.
    shard_size : int
        Number of recordings in a shard.
    endpoint : str
        URL of another S3-compatible server with the recordings of the table.

    Raises
    ------
    InputError
        If there are no recordings, too many shards, or another plan in this place.
    StoreError, TableError, BundleError
        As for `predict.predict` and `tables.read_metadata`.
    """
    if shard_size < 1:
        raise InputError(f"a shard size of {shard_size}: expected 1 or more")
    FetchSettings.parse({"endpoint": endpoint}, "plan")
    model = predict.at_prevalence(disk.load_any(bundle), prevalence)
    kind, items, passed_over = _find(paths, model)
    if not items:
        raise InputError(f"{listed([str(path) for path in paths])}: there are no recordings")
    count = -(-len(items) // shard_size)
    if count > MOST_SHARDS:
        raise InputError(
            f"{count:,} shards of {shard_size}, and a plan has at most {MOST_SHARDS:,}. Choose a "
            "larger --shard-size"
        )
    starts = range(0, len(items), shard_size)
    hashes = tuple(
        files.sha256_of(_as_list(kind, items[start : start + shard_size])) for start in starts
    )
    given = [Path(path) for path in paths]
    is_shipped = model.path.parent == disk.SHIPPED
    plan = Plan(
        kind=kind,
        paths=tuple(str(path.resolve()) for path in given),
        # As the paths of their recordings begin, which are not resolved either.
        folders=tuple(str(path.absolute()) for path in given if path.is_dir()),
        endpoint=endpoint,
        bundle=model.label,
        bundle_path=model.path.name if is_shipped else str(model.path.resolve()),
        bundle_sha256=fingerprint(model),
        threshold=model.spec.threshold,
        prevalence=prevalence,
        engine=choose.choose(model, engine).name,
        consistency=consistency,
        shard_size=shard_size,
        recordings=len(items),
        lists=hashes,
        passed_over=passed_over,
        made={**files.provenance(), "at": predict.now()},
    )
    if (before := read_if_planned(place)) is not None:
        _refuse_other(place, before, plan)
        return Planned(before, is_new=False)
    lists = (_as_list(kind, items[start : start + shard_size]) for start in starts)
    place.write_all((list_name(number), content) for number, content in enumerate(lists))
    # Last: a plan without this file does not exist.
    place.write(PLAN_NAME, _dump(plan))
    return Planned(plan, is_new=True)


def read(place: Place) -> Plan:
    """Read a plan.

    Raises
    ------
    InputError
        If there is none, it cannot be read, or another version made it.
    """
    plan = read_if_planned(place)
    if plan is None:
        raise InputError(
            f"{place.where}: no {PLAN_NAME} there, so this is not a plan. Make one with "
            f"'stallscan plan PATH... -o {place.where}'"
        )
    return plan


def read_if_planned(place: Place) -> Plan | None:
    """Read a plan; None if there is none. Errors as for `read`."""
    content = place.read(PLAN_NAME)
    if content is None:
        return None
    name = f"{place.where}/{PLAN_NAME}"
    try:
        values = documents.parse_json(content)
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise InputError(
            f"{name}: not readable as a plan ({error}). Restore it, or make the plan again in "
            "another folder"
        ) from None
    if values.get("format") != FORMAT:
        raise InputError(
            f"{name}: has plan format {values.get('format')!r}, and this version of stallscan "
            f"reads format {FORMAT}. Use the version that made it"
        )
    try:
        return Plan.parse(values, name)
    except SettingsError as error:
        raise InputError(f"{error}. Restore the file, or make the plan again") from None


def read_list(place: Place, plan: Plan, number: int) -> list[Item]:
    """Read the list of a shard.

    Raises
    ------
    InputError
        If it is missing or has changed since the plan was made.
    """
    return parse_list(place.read(list_name(number)), place, plan, number)


def parse_list(content: bytes | None, place: Place, plan: Plan, number: int) -> list[Item]:
    """Return the recordings in the content of a shard's list; errors as for `read_list`."""
    name = list_name(number)
    if content is None or files.sha256_of(content) != plan.lists[number]:
        what = "is missing" if content is None else "has changed since the plan was made"
        raise InputError(
            f"{place.where}/{name}: {what}. Restore it, or make the plan again in another folder"
        )
    text = content.decode("utf-8", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""))
    return [Item(*row) for row in itertools.islice(rows, 1, None)]


def open_store(plan: Plan) -> store.Store:
    """Open the store of a plan."""
    return store.Store(Path(plan.paths[0]))


def fingerprint(model: Bundle | Ensemble) -> str:
    """Return a hash of everything in a bundle that determines rows."""
    specs = [each.spec for each in (model, *model.members)]
    content: list[Any] = [
        spec.model_dump(mode="json", exclude={"metrics", "provenance"}) for spec in specs
    ]
    # A row says if the bundle has learned from its recording.
    content += [sorted(each.learned) for each in model.members if each.learned]
    return files.sha256_of(json.dumps(content, sort_keys=True).encode())


def is_table(path: str | Path) -> bool:
    """Return whether a path is a table, by its name."""
    return str(path).lower().endswith(TABLE_SUFFIXES)


def _find(
    paths: Sequence[str | Path], model: Bundle | Ensemble
) -> tuple[Kind, Sequence[Item], dict[str, Any]]:
    """Find the recordings; return their kind, and what was passed over."""
    tables_given = [str(path) for path in paths if is_table(path)]
    if tables_given and len(paths) > 1:
        raise InputError(
            f"{tables_given[0]}: a table of metadata cannot be combined with other inputs. Make "
            "one plan for the table and one for the rest"
        )
    if tables_given:
        table = tables.read_metadata(tables_given[0], needed=["url"])
        wanted = list(map(Wanted, table["filename"], table["url"]))
        fetch.check(wanted)
        return "urls", [Item(*each) for each in wanted], {}
    clips = store.open_if_store(paths)
    if clips is None:
        sources, passed_over = find.find_recordings(paths)
        items = [Item(name, str(path.absolute())) for name, path in sources]
        return "files", items, passed_over.as_dict()
    for member in model.members:
        clips.require(member.spec.view, f"the bundle {member.label}", f"--bundle {member.path}")
    clips.warn_of_replaced()
    return "store", [Item(row.filename, row.as_stamp().sha256) for row in clips.rows()], {}


def _as_list(kind: Kind, items: Iterable[Item]) -> bytes:
    buffer = io.StringIO()
    # Quoted, because a path may have a lone carriage return.
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("filename", COLUMNS[kind]))
    writer.writerows(items)
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def _dump(plan: Plan) -> bytes:
    content = plan.model_dump(mode="json")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _refuse_other(place: Place, before: Plan, plan: Plan) -> None:
    old, new = (each.model_dump(mode="json", exclude={"made"}) for each in (before, plan))
    if old == new:
        return
    named = [phrase for phrase in differences(old, new) if not phrase.startswith("lists")]
    reason = listed(named, 3, separator="; ") or "other recordings"
    raise InputError(
        f"{place.where}: holds another plan ({reason}). Choose another place with -o, or remove "
        "this one"
    )
