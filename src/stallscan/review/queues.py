"""In which order recordings are reviewed."""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

from stallscan.review.answers import Given
from stallscan.review.run import Item
from stallscan.scores.calibration import log_odds

Order = Literal["uncertain", "stalled", "random", "unseen", "disagreed"]
ORDERS: tuple[str, ...] = get_args(Order)
SEED = 0  # of the random order: the same sample for everyone


def arrange(
    items: Sequence[Item], answers: Iterable[Given], reviewer: str, order: Order
) -> list[int]:
    """Return the numbers of the items that a reviewer has still to see, in order.

    Parameters
    ----------
    items : sequence of Item
        All items.
    answers : iterable of Given
        The current answers of all reviewers.
    reviewer : str
        Whose queue it is.
    order : str
        ``uncertain``: nearest to the threshold first, and before them what `predict` left to a
        person; ``stalled``: highest score first; ``random``: the same random order for everyone;
        ``unseen``: what nobody has answered, in the order of the table; ``disagreed``: what
        reviewers answered differently, even if this one was among them.
    """
    by_name: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for given in answers:
        by_name[given.filename][given.reviewer] = given.answer
    said = [by_name.get(item.filename, {}) for item in items]
    if order == "disagreed":
        return [number for number, each in enumerate(said) if len(set(each.values())) > 1]
    if order == "unseen":
        return [number for number, each in enumerate(said) if not each]
    if order == "random":
        numbers = np.random.default_rng(SEED).permutation(len(items)).tolist()
    else:
        key = _uncertainty if order == "uncertain" else _flow
        numbers = sorted(range(len(items)), key=lambda number: key(items[number]))
    return [number for number in numbers if reviewer not in said[number]]


def _uncertainty(item: Item) -> tuple[bool, float]:
    """Sort key: reviews first, then by distance from the threshold; without a score last."""
    if item.score is None or item.threshold is None:
        return True, math.inf
    if item.call == "review":
        return False, -1.0
    score, threshold = log_odds([item.score, item.threshold])
    return False, abs(float(score - threshold))


def _flow(item: Item) -> float:
    return math.inf if item.score is None else -item.score
