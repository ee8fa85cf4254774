"""How far a plan is, seen from any machine that sees its place."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stallscan.scale import plan as plans
from stallscan.scale import results
from stallscan.scale.place import Place
from stallscan.scale.plan import Plan, name_of
from stallscan.scale.results import Made, ResultError
from stallscan.words import listed, say_time

# The rate is that of the last shards, because machines come and go.
WINDOW = datetime.timedelta(hours=1)


@dataclass
class Status:
    """How far a plan is.

    Attributes
    ----------
    done, missing : list of int
        Shards with a valid result, and without any.
    held, failed, broken : dict
        By shard: who works on it; why its last attempt failed; what is wrong with its result.
        Held and failed shards are among the missing ones.
    recordings : int
        Recordings in results.
    calls : dict
        Recordings in results, by call.
    rate : float or None
        Recordings per second of all processes together, in the last hour of work.
    seconds : dict
        Time of all finished shards, by stage, as in `results.Made`.
    """

    where: str
    plan: Plan
    done: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    held: dict[int, str] = field(default_factory=dict)
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    recordings: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float | None:
        """Time until the rest is done, at the present rate; None if it is unknown."""
        if not self.rate:
            return None
        return (self.plan.recordings - self.recordings) / self.rate

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "plan": self.where,
            "shards": len(self.plan.lists),
            "done": len(self.done),
            "missing": self.missing,
            "held": self.held,
            "failed": self.failed,
            "broken": self.broken,
            "recordings": self.plan.recordings,
            "recordings_done": self.recordings,
            "calls": self.calls,
            "recordings_per_s": self.rate and round(self.rate, 3),
            "seconds_left": None if self.left_s is None else round(self.left_s),
            "seconds": {stage: round(spent, 1) for stage, spent in self.seconds.items()},
        }

    def __str__(self) -> str:
        plan = self.plan
        lines = [
            f"{self.where}: {len(self.done):,} of {len(plan.lists):,} shards done, "
            f"{len(self.held):,} in work, {len(self.failed):,} failed, {len(self.broken):,} broken",
            f"recordings: {self.recordings:,} of {plan.recordings:,}"
            + "".join(f", {count:,} {call}" for call, count in self.calls.items()),
        ]
        if self.rate:
            lines.append(f"rate: {self.rate:.3g} recordings/s")
            if self.missing and self.left_s is not None:
                lines[-1] += f", {say_time(self.left_s)} left at this rate"
        for number in sorted(self.held):
            lines.append(f"{name_of(number)}: in work by {self.held[number]}")
        for number, failure in sorted(self.failed.items()):
            lines.append(f"{name_of(number)}: failed: {failure.get('reason', '')}")
        lines += [reason for _, reason in sorted(self.broken.items())]
        if self.missing:
            names = [name_of(number) for number in self.missing]
            lines.append(f"missing: {listed(names)}")
        return "\n".join(lines)


def look(place: Place, progress: Callable[[int, int], None] = lambda _done, _of: None) -> Status:
    """Read all results of a plan, and who works on it.

    Raises
    ------
    InputError
        If there is no plan, or it cannot be read.
    """
    plan = plans.read(place)
    # Before the results are listed: a shard that ends meanwhile is done, not lost.
    owners = place.owners(map(name_of, plan.shards))
    there = place.names("results")
    wanted = [number for number in plan.shards if f"{name_of(number)}.json" in there]
    status = Status(place.where, plan)
    times: list[tuple[Made, int]] = []
    contents = place.read_all(map(plans.result_name, wanted))
    for count, (number, content) in enumerate(zip(wanted, contents, strict=True), start=1):
        progress(count, len(wanted))
        if content is None:
            continue
        try:
            result = results.check(content, place, plan, number)
        except ResultError as error:
            status.broken[number] = str(error)
            continue
        status.done.append(number)
        status.recordings += result.recordings
        times.append((result.made, result.recordings))
        for call, calls in result.calls.items():
            status.calls[call] = status.calls.get(call, 0) + calls
        for stage, seconds in result.made.seconds.items():
            status.seconds[stage] = status.seconds.get(stage, 0.0) + seconds
    finished = {*status.done, *status.broken}
    status.missing = [number for number in plan.shards if number not in finished]
    named = {number: owners.get(name_of(number)) for number in status.missing}
    status.held = {number: owner for number, owner in named.items() if owner}
    status.failed = results.read_failures(place, status.missing)
    status.rate = _rate(times)
    return status


def _rate(times: Sequence[tuple[Made, int]]) -> float | None:
    """Return the recordings per second of the last hour in which shards were finished."""
    if not times:
        return None
    spans = [
        (_parse(made.started), _parse(made.finished), recordings) for made, recordings in times
    ]
    end = max(finished for _, finished, _ in spans)
    last = [span for span in spans if span[1] > end - WINDOW]
    start = max(min(started for started, _, _ in last), end - WINDOW)
    # Of a shard that began before the window, the share that is in it.
    recordings = sum(
        count if started >= start else count * ((finished - start) / (finished - started))
        for started, finished, count in last
    )
    return recordings / max(end - start, _SECOND).total_seconds()


_SECOND = datetime.timedelta(seconds=1)


def _parse(time: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(time)
