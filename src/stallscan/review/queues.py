"""In which order recordings are reviewed."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.review.answers import Given
from stallscan.review.run import Item
from stallscan.scores.calibration import log_odds

Order = Literal["uncertain", "stalled", "random", "unseen", "disagreed"]
ORDERS: tuple[str, ...] = get_args(Order)
SEED = 0  # of the random order: the same sample for everyone
Bools = NDArray[np.bool_]
Current = Mapping[str, Mapping[str, Given]]  # by filename and reviewer


class Queues:
    """The orders of the items of a run; what does not depend on answers is computed once.

    Items that were not found are in none of them.

    Parameters
    ----------
    items : sequence of Item
        The items of the run.
    blind : bool
        Whether the random order replaces that of the table, in which a group's recordings, such as
        those of a mouse, follow each other.

    Attributes
    ----------
    random : tuple of int
        The items in the random order.
    """

    def __init__(self, items: Sequence[Item], blind: bool = False) -> None:
        self._names = [item.filename for item in items]
        score, threshold = (
            np.array([getattr(item, name) for item in items], np.float64)  # NaN for None, (N,)
            for name in ("score", "threshold")
        )
        distance = _distance(score, threshold)
        left = np.array([item.call == "review" for item in items], bool)
        mixed = _tuple(np.random.default_rng(SEED).permutation(len(items)))
        table = mixed if blind else tuple(range(len(items)))
        every = {
            "random": mixed,
            "uncertain": _tuple(
                _for_teaching(self._names, score, distance, left & ~np.isnan(distance))
            ),
            "stalled": _rank(-score),
            "unseen": table,
            "disagreed": table,
        }
        self._fixed: dict[str, tuple[int, ...]] = {
            name: tuple(n for n in order if items[n].shown is not None)
            for name, order in every.items()
        }
        self.random = self._fixed["random"]
        flowing = np.array([item.call == "flowing" for item in items], bool) & ~np.isnan(score)
        self._easy = tuple(n for n in _rank(score) if flowing[n] and items[n].shown is not None)
        self._has_scores = bool((~np.isnan(score)).any())

    def arrange(self, current: Current, reviewer: str, order: Order) -> list[int]:
        """Return the numbers of the items that a reviewer has still to see, in order.

        Parameters
        ----------
        current : mapping
            The current answers, as in `Ledger`.
        reviewer : str
            Whose queue it is.
        order : str
            ``uncertain``: for teaching a model, as in `_for_teaching`; ``stalled``: highest score
            first; ``random``: the same random order for everyone; ``unseen``: what nobody has
            answered, in the order of the table; ``disagreed``: what reviewers answered differently,
            except where this one has had the last word.
        """
        numbers, names = self._fixed[order], self._names
        if order == "disagreed":
            return [n for n in numbers if _is_open(current.get(names[n]), reviewer)]
        if order == "unseen":
            return [n for n in numbers if not current.get(names[n])]
        return self._unanswered(numbers, current, reviewer)

    def easy(self, current: Current, reviewer: str, order: Order, blind: bool) -> list[int]:
        """Return what the contact sheet shows, in order, as `arrange` does.

        These are the recordings that are called flowing, lowest score first. Blind reviewers must
        not learn the call, and runs may have no scores; they get the given order.
        """
        if blind or not self._has_scores:
            return self.arrange(current, reviewer, order)
        return self._unanswered(self._easy, current, reviewer)

    def _unanswered(self, numbers: Sequence[int], current: Current, reviewer: str) -> list[int]:
        names = self._names
        return [n for n in numbers if reviewer not in current.get(names[n], ())]


def _distance(score: NDArray[np.float64], threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances from the threshold in log odds; NaN without a score."""
    distance = np.full(len(score), np.nan)
    there = ~np.isnan(score) & ~np.isnan(threshold)
    distance[there] = np.abs(log_odds(score[there]) - log_odds(threshold[there]))
    return distance


def _for_teaching(
    names: Sequence[str], score: NDArray[np.float64], distance: NDArray[np.float64], left: Bools
) -> NDArray[np.int64]:
    """Return an order for teaching a model.

    First comes what `predict` left to a person. Of every three others, two are nearest to the
    threshold and one has the highest score, because stalls are rare and a model needs some. Folders
    (often mice or sessions) take turns, because recordings of one are alike. Those without a score
    are last.
    """
    # Places in both orders, (N,): the k-th of the second comes after twice as many of the first.
    uncertain, stalled = np.empty((2, len(names)))
    uncertain[np.argsort(np.where(left, -1.0, distance), kind="stable")] = np.arange(len(names))
    stalled[np.argsort(-score, kind="stable")] = np.arange(len(names))
    key = np.minimum(uncertain / 2, stalled)
    key[left] = -1
    key[np.isnan(distance)] = np.inf
    order = np.argsort(key, kind="stable")
    folders = pd.Series([name.rpartition("/")[0] for name in names])[order]
    turn = folders.groupby(folders).cumcount().to_numpy()  # (N,), in this order
    turn = np.where(left[order], -1, np.where(np.isinf(key[order]), len(names), turn))
    return np.asarray(order[np.argsort(turn, kind="stable")])


def _rank(keys: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the places of keys in rising order, NaN last, equal ones in their own order."""
    return _tuple(np.argsort(keys, kind="stable"))


def _tuple(numbers: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(numbers.tolist())


def _is_open(said: Mapping[str, Given] | None, reviewer: str) -> bool:
    if not said or len({given.answer for given in said.values()}) < 2:
        return False
    return max(said.values(), key=lambda given: given.id).reviewer != reviewer
