"""The answers that count, in memory: reading all of them for every request takes too long."""

import collections
import itertools

from stallscan.errors import InputError
from stallscan.review.answers import Answers, Given


class Ledger:
    """The standing answers, brought up to date by reading the rows added since the last time.

    Rows are never changed and their numbers rise, so nothing that another process writes is missed.
    Not safe for threads.

    Attributes
    ----------
    current : dict
        The current answer of each reviewer to each recording: ``current[filename][reviewer]``.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._last = 0  # row that was read last
        self._by_row: dict[int, Given] = {}
        # By reviewer and row, and by filename and reviewer; both oldest first.
        self._standing: dict[str, dict[int, Given]] = collections.defaultdict(dict)
        self._stacks: dict[tuple[str, str], list[Given]] = collections.defaultdict(list)
        self.current: dict[str, dict[str, Given]] = collections.defaultdict(dict)

    def update(self) -> None:
        """Read what was added."""
        for given, takes_back in self._answers.since(self._last):
            if takes_back is None:
                self._by_row[given.id] = given
                self._standing[given.reviewer][given.id] = given
                self._stacks[given.filename, given.reviewer].append(given)
                self.current[given.filename][given.reviewer] = given
            else:
                taken = self._by_row.pop(takes_back, None)
                if taken is None:
                    raise InputError(
                        f"{self._answers.path}: row {given.id} takes back an answer that is not "
                        "there. Restore the file from a backup, or move it away"
                    )
                self._take_back(taken)
            self._last = given.id  # last, so that a refused row is refused every time

    def given_by(self, reviewer: str) -> list[Given]:
        """Return all standing answers of a reviewer, oldest first."""
        return list(self._standing.get(reviewer, {}).values())

    def recent(self, reviewer: str, count: int) -> list[Given]:
        """Return the last standing answers of a reviewer, newest first."""
        return list(itertools.islice(reversed(self._standing.get(reviewer, {}).values()), count))

    def reviewers(self) -> list[str]:
        """Return the names of those with standing answers, in alphabetical order."""
        return sorted(name for name, given in self._standing.items() if given)

    def all_current(self) -> list[Given]:
        """Return the current answer of each reviewer to each recording."""
        return [given for by_reviewer in self.current.values() for given in by_reviewer.values()]

    def _take_back(self, given: Given) -> None:
        del self._standing[given.reviewer][given.id]
        stack = self._stacks[given.filename, given.reviewer]
        stack.remove(given)
        if stack:
            self.current[given.filename][given.reviewer] = stack[-1]
        else:
            del self.current[given.filename][given.reviewer]
