"""What the review page is told: what comes next, how far a reviewer is, and how good."""

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stallscan import __version__
from stallscan.review import agreement, known, sample
from stallscan.review.answers import ANSWERS, Answers, Given, New
from stallscan.review.clips import KEPT, Cache, Clip
from stallscan.review.known import Checks, Known
from stallscan.review.labels import VOTES
from stallscan.review.ledger import Ledger
from stallscan.review.pace import items_an_hour
from stallscan.review.queues import ORDERS, Order, Queues
from stallscan.review.run import Item, Run

Look = Callable[[Path], bytes]
AHEAD = 4  # clips that are named at a time: the present one, and those to fetch beforehand
SHEET = 12  # clips of a contact sheet
SHOWN = 10  # recent answers
WITHIN = 0.03  # half width of the interval that a check of the whole run is planned for
BLIND_ORDERS: tuple[Order, ...] = ("random", "unseen", "disagreed")  # which show no score
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


WITHOUT_CLIP = ("unsure", "broken")  # answers to a recording that cannot be shown


class NoItemError(LookupError):
    """There is no item with this number."""


class UnseenError(ValueError):
    """An item cannot be answered so, because it cannot be shown."""


@dataclass(frozen=True)
class PageSettings:
    """How the page is served.

    Attributes
    ----------
    reviewer : str
        Name of those who do not give one; empty: they have to.
    order : str
        The first order.
    blind : bool
        Whether score, call and filename, which may name the group, are hidden.
    hosts : tuple of str
        Names of this server in an address, without the port. With a token, any IP address is one.
    token : str
        What a browser must present; empty: nothing.
    """

    reviewer: str
    order: Order = "uncertain"
    blind: bool = False
    hosts: tuple[str, ...] = LOOPBACK
    token: str = ""


class Desk:
    """Answers the requests of the page; several threads may ask at once.

    Parameters
    ----------
    run : Run
        What is reviewed.
    answers : Answers
        Where answers go.
    clips : Cache
        Where clips come from.
    settings : PageSettings
        How the page is served.
    labels : Known, optional
        Known labels, some of which are mixed in.
    look : callable, optional
        Returns the WebP file of where the net looked in a recording; takes about a second.
    """

    def __init__(
        self,
        run: Run,
        answers: Answers,
        clips: Cache,
        settings: PageSettings,
        labels: Known | None = None,
        look: Look | None = None,
    ) -> None:
        self.settings = settings
        self.run_key = run.key
        self._run, self._answers, self._clips = run, answers, clips
        self._labels = labels or Known({})
        self._found = sum(item.shown is not None for item in run.items)
        self._has_calls = any(item.call in VOTES for item in run.items)
        self._numbers = {item.filename: number for number, item in enumerate(run.items)}
        self._queues = Queues(run.items, settings.blind)
        self._places = {number: place for place, number in enumerate(self._queues.random, 1)}
        self._checks: dict[str, Checks] = {}
        self._ledger = Ledger(answers)
        self._lock = threading.Lock()  # of the ledger
        # Blind reviewers must not learn what the net found.
        self._look = None if settings.blind else look
        self._looked = functools.lru_cache(KEPT)(self._find_looked)
        self._turn = threading.Condition()  # engines are not made for several threads
        self._is_looking = False
        self._wanted: dict[str, int] = {}  # by reviewer, what was asked for last

    def spelled(self, name: str) -> str:
        """Return a name as the answers of its reviewer are saved."""
        return self._answers.spelled(name)

    def item(self, number: int) -> Item:
        """Return an item by its number; raises `NoItemError`."""
        if not 0 <= number < len(self._run.items):
            raise NoItemError(number)
        return self._run.items[number]

    def clip(self, number: int) -> Clip:
        """Return a clip by the number of its item."""
        return self._clips.ask(number, self.item(number).shown).result()

    def looked(self, reviewer: str, number: int) -> bytes:
        """Return the WebP file of where the net looked in an item; empty if that is unknown.

        Also empty if the reviewer asks for another item before the turn of this one: whoever
        answers quickly would otherwise wait for the pictures of all recordings before.
        """
        with self._turn:
            self._wanted[reviewer] = number
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._is_looking or self._wanted[reviewer] != number)
            if self._wanted[reviewer] != number:
                return b""
            self._is_looking = True
        try:
            return self._looked(number)
        finally:
            with self._turn:
                self._is_looking = False
                self._turn.notify_all()

    def _find_looked(self, number: int) -> bytes:
        path = self.item(number).path
        # Only what was decoded before in a process of its own: a file may crash the decoder.
        if self._look is None or path is None or not self.clip(number).sheet:
            return b""
        return self._look(path)

    def describe(self, reviewer: str, order: Order, within: float = WITHIN) -> dict[str, Any]:
        """Say what is next, and how far the reviewer is."""
        order = self._allowed(order)
        checks = self._checks_of(reviewer)
        with self._lock:
            self._ledger.update()
            mine = self._given_by(reviewer)
            queue = self._queues.arrange(self._ledger.current, reviewer, order)
            recent = self._ledger.recent(reviewer, SHOWN)
        ahead = self._ask(known.mix(queue, checks, mine), AHEAD)
        return {
            "items": [self._describe_item(number) for number in ahead],
            "left": len(queue),
            "answered": len(mine),
            "total": self._found,
            "missing": 0 if self._run.is_stack else len(self._run.items) - self._found,
            "reviewer": reviewer,
            "order": order,
            "orders": BLIND_ORDERS if self.settings.blind else ORDERS,
            "answers": ANSWERS,
            "blind": self.settings.blind,
            "folder": self._run.folder.resolve().name,
            "run": self.run_key,
            "version": __version__,
            "recent": self._describe_answers(recent),
            "check": self._describe_sample(mine, within) if order == "random" else None,
            "own": self._describe_accuracy(checks, mine),
        }

    def describe_easy(self, reviewer: str, order: Order) -> dict[str, Any]:
        """Say what the next contact sheet shows; the clips of the one after it are begun."""
        order = self._allowed(order)
        checks = self._checks_of(reviewer)
        with self._lock:
            self._ledger.update()
            mine = self._given_by(reviewer)
            queue = self._queues.easy(self._ledger.current, reviewer, order, self.settings.blind)
        ahead = self._ask(known.mix(queue, checks, mine), 2 * SHEET)
        described = [self._describe_item(number) for number in ahead]
        return {"items": described[:SHEET], "next": described[SHEET:], "left": len(queue)}

    def describe_clip(self, number: int) -> dict[str, Any]:
        """Describe an item and its clip."""
        clip, item = self.clip(number), self.item(number)
        return self._describe_item(number) | {
            "frames": clip.frames,
            "columns": clip.columns,
            "width": clip.width,
            "height": clip.height,
            "outline": clip.outline,
            "note": clip.note,
            "answers": self._possible(number),
            "evidence": bool(clip.evidence),
            "looked": self._look is not None and bool(clip.evidence) and bool(item.path),
        }

    def describe_reviewers(self) -> dict[str, Any]:
        """Say how much the reviewers have answered, and how far they agree."""
        with self._lock:
            self._ledger.update()
            given = {name: self._ledger.given_by(name) for name in self._ledger.reviewers()}
            current = self._ledger.all_current()
        return {
            "reviewers": [
                {
                    "name": name,
                    "answered": len({each.filename for each in answers}),
                    "an_hour": items_an_hour(each.seconds for each in answers),
                }
                for name, answers in given.items()
            ],
            "pairs": [asdict(pair) for pair in agreement.pairs(current)],
        }

    def prepare(
        self, reviewer: str, number: int, answer: str, token: str, seconds: float | None
    ) -> New:
        """Return an answer to record; raises `NoItemError` and `UnseenError`."""
        if answer not in self._possible(number):
            raise UnseenError(number)
        item, is_check = self.item(number), number in self._checks_of(reviewer).chosen
        return New(token, item.filename, reviewer, answer, seconds, is_check, item.seal())

    def _possible(self, number: int) -> tuple[str, ...]:
        """Return the answers that an item may get: nobody can tell what cannot be shown."""
        if self.item(number).shown is None:
            return ()
        return WITHOUT_CLIP if self._clips.is_empty(number) else ANSWERS

    def give(
        self, reviewer: str, answers: Sequence[New], sheet: str | None
    ) -> list[dict[str, Any]]:
        """Record answers of a reviewer, and return the last ones, newest first."""
        self._answers.give_all(answers, sheet)
        return self._recent(reviewer)

    def undo(self, reviewer: str, token: str) -> dict[str, Any]:
        """Take back the last answer of a reviewer, or the last contact sheet."""
        taken = self._answers.undo(token, reviewer)
        numbers = [self._numbers.get(given.filename) for given in taken]
        return {
            "items": [self._describe_item(number) for number in numbers if number is not None],
            "recent": self._recent(reviewer),
        }

    def _recent(self, reviewer: str) -> list[dict[str, Any]]:
        with self._lock:
            self._ledger.update()
            recent = self._ledger.recent(reviewer, SHOWN)
        return self._describe_answers(recent)

    def _ask(self, numbers: Iterable[int], count: int) -> list[int]:
        """Take the first numbers, and begin to make their clips."""
        ahead = list(islice(numbers, count))
        for number in ahead:
            self._clips.ask(number, self.item(number).shown)
        return ahead

    def _checks_of(self, reviewer: str) -> Checks:
        if reviewer not in self._checks:
            self._checks[reviewer] = self._labels.for_reviewer(reviewer, self._numbers)
        return self._checks[reviewer]

    def _given_by(self, reviewer: str) -> dict[int, Given]:
        """Return the current answers of a reviewer by the number of the item."""
        # Oldest first, so the last one to a recording stays.
        return {
            number: given
            for given in self._ledger.given_by(reviewer)
            if (number := self._numbers.get(given.filename)) is not None
        }

    def _describe_sample(self, mine: dict[int, Given], within: float) -> dict[str, Any] | None:
        if not self._has_calls:
            return None
        judged = sample.judge(self._queues.random, self._run.items, mine, within)
        told: dict[str, Any] = {"checked": judged.checked, "needed": judged.needed}
        told |= {"calls": judged.calls, "complete": judged.complete}
        # A reviewer who sees the estimate earlier may stop where it pleases.
        shown = ("other", "wrong", "missed", "alarms") if judged.is_enough else ()
        return told | {"within": within} | {name: getattr(judged, name) for name in shown}

    def _describe_accuracy(self, checks: Checks, mine: dict[int, Given]) -> dict[str, Any] | None:
        if not checks.items:
            return None
        given = [each for each in mine.values() if each.is_check]
        own = agreement.accuracy(given, self._labels.labels)
        return {
            name: None if count < known.ENOUGH else {"share": share, "right": right, "of": count}
            for name, share, right, count in (
                ("sensitivity", own.sensitivity, own.true_stalled, own.stalled),
                ("specificity", own.specificity, own.true_flowing, own.flowing),
            )
        }

    def _describe_answers(self, given: Sequence[Given]) -> list[dict[str, Any]]:
        return [
            {
                "item": self._numbers.get(each.filename),
                "filename": self._name(each.filename),
                "answer": each.answer,
            }
            for each in given
        ]

    def _describe_item(self, number: int) -> dict[str, Any]:
        item = self.item(number)
        told: dict[str, Any] = {"item": number, "filename": self._name(item.filename)}
        if not self.settings.blind:
            told |= {"call": item.call, "score": item.score, "reason": item.reason}
        return told

    def _name(self, filename: str) -> str:
        """Return what the page calls a recording; blind, a number, as a folder may be a group."""
        if not self.settings.blind:
            return filename
        place = self._places.get(self._numbers.get(filename, -1))
        return "another recording" if place is None else f"recording {place}"

    def _allowed(self, order: Order) -> Order:
        return order if not self.settings.blind or order in BLIND_ORDERS else "random"
