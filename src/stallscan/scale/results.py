"""The result of a shard: one file with its rows, traits and stamps, and what they were made with.

Two results of the same shard are equal byte for byte, except for the last entry, ``made``.
"""

import contextlib
import datetime
import json
import logging
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from stallscan import documents, files
from stallscan.errors import InputError, SettingsError
from stallscan.runs import HeldError
from stallscan.scale.place import Place
from stallscan.scale.plan import Plan, name_of, result_name
from stallscan.settings import Settings

log = logging.getLogger("stallscan")

FORMAT = 1
FAILURES, FAILURE_NAME = "failures", "failures/{}.json"


def _check_time(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Time = Annotated[str, AfterValidator(_check_time)]


class Made(Settings):
    """When and where a result was made; two results of the same shard may differ in this only."""

    started: Time
    finished: Time
    host: str
    cores: int
    # Time of the whole shard, and of its stages: fetch is elapsed time, prepare and predict are
    # core seconds.
    seconds: dict[str, float]


class Result(Settings):
    """The content of ``results/shard-0000.json``."""

    format: Literal[1] = 1
    shard: int
    shards: int
    bundle_sha256: str
    list_sha256: str
    engine: str
    consistency: bool
    stallscan: str  # version
    git: str | None  # commit
    recordings: int
    calls: dict[str, int]  # recordings by call
    statuses: dict[str, int]  # recordings by status
    tables: dict[str, str]  # lines of each of `written.TABLES`, without header
    tables_sha256: str
    made: Made


class ResultError(InputError):
    """A result is damaged, or belongs to another plan."""


class DamagedError(ResultError):
    """A result is damaged; its shard can be done again."""


def hash_of(tables: dict[str, str]) -> str:
    """Return the hash of the tables of a result."""
    return files.sha256_of(json.dumps(tables, sort_keys=True).encode())


def dump(result: Result) -> bytes:
    """Return the content of the file."""
    text = json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def read(place: Place, plan: Plan, number: int) -> Result | None:
    """Read the result of a shard; None if it is to be done: there is none, or a damaged one.

    Raises
    ------
    ResultError
        If it is that of another plan.
    """
    content = place.read(result_name(number))
    try:
        return None if content is None else check(content, place, plan, number)
    except DamagedError as error:
        log.warning("%s", error)
        return None


def remove_damaged(place: Place, plan: Plan) -> None:
    """Read all results, and remove the damaged ones, so that their shards are done again."""
    for number, content in enumerate(place.read_all(map(result_name, plan.shards))):
        try:
            if content is not None:
                check(content, place, plan, number)
        except DamagedError:
            # Whoever holds the shard is doing it again; afterwards, its result may be whole.
            with contextlib.suppress(HeldError), place.claim(name_of(number)):
                if read(place, plan, number) is None:
                    place.remove(result_name(number))


def check(content: bytes, place: Place, plan: Plan, number: int) -> Result:
    """Check the content of a shard's result.

    Raises
    ------
    DamagedError
        If it is damaged; the message names the shard.
    ResultError
        If it is of another list or bundle, or of a newer version of stallscan.
    """
    path = f"{place.where}/{result_name(number)}"
    again = f"{name_of(number)} again with 'stallscan run {place.where}'"
    try:
        values = documents.parse_json(content)
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise ResultError(
                f"{path}: has result format {values['format']!r}, and this version of stallscan "
                f"reads format {FORMAT}. Use the version that made it"
            )
        result = Result.parse(values, path)
        damage = "its tables have changed" if hash_of(result.tables) != result.tables_sha256 else ""
    except (ValueError, TypeError, SettingsError):
        damage = "it is no complete result"
    if damage:
        raise DamagedError(f"{path}: damaged, {damage}. Do {again}")
    expected = (number, len(plan.lists), plan.lists[number], plan.bundle_sha256, plan.engine)
    found = (
        *(result.shard, result.shards, result.list_sha256, result.bundle_sha256),
        result.engine,
    )
    is_consistent = result.consistency == plan.consistency
    if found == expected and is_consistent and result.recordings == plan.size(number):
        return result
    what = "bundle" if result.bundle_sha256 != plan.bundle_sha256 else "engine"
    if found == expected and not is_consistent:
        what = "choice of --consistency"
    if found[:3] != expected[:3]:
        what = "list of recordings"
    raise ResultError(
        f"{path}: was made with another {what} than this plan. Remove the file, and do {again}"
    )


def record_failure(place: Place, number: int, note: dict[str, Any]) -> None:
    """Record why a shard could not be done."""
    place.write(FAILURE_NAME.format(name_of(number)), json.dumps(note).encode())


def read_failures(place: Place, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """Return the last failure of each of these shards that has one."""
    recorded = place.names(FAILURES)
    wanted = [number for number in numbers if f"{name_of(number)}.json" in recorded]
    notes = place.read_all(FAILURE_NAME.format(name_of(number)) for number in wanted)
    failures = {}
    for number, note in zip(wanted, notes, strict=True):
        try:
            failures[number] = dict(documents.parse_json(note or b"{}"))
        except (ValueError, TypeError):
            failures[number] = {"reason": "not recorded"}
    return failures
