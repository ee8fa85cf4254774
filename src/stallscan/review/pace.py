"""How fast a reviewer works."""

from collections.abc import Iterable

PAUSE_S = 120.0  # for one recording; longer ones are no work
SHORTEST_S = 60.0  # of work, before a rate is named


def items_an_hour(seconds: Iterable[float | None]) -> float | None:
    """Compute answers an hour of work, without pauses.

    Parameters
    ----------
    seconds : iterable of float or None
        How long each answer took; None is left out.

    Returns
    -------
    float or None
        None if there is less than `SHORTEST_S` of work.
    """
    worked = [each for each in seconds if each is not None and each <= PAUSE_S]
    if sum(worked) < SHORTEST_S:
        return None
    return 3600.0 * len(worked) / sum(worked)
