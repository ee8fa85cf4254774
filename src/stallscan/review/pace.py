"""How fast a reviewer works."""

import itertools
from collections.abc import Sequence
from datetime import datetime

PAUSE_S = 120.0  # without an answer; longer ones are no work
SHORTEST_S = 60.0  # of work, before a rate is named


def items_an_hour(times: Sequence[str]) -> float | None:
    """Compute answers an hour of work, without pauses.

    Parameters
    ----------
    times : sequence of str
        When each answer was given, ISO 8601, oldest first.

    Returns
    -------
    float or None
        None if there is less than `SHORTEST_S` of work.
    """
    stamps = [datetime.fromisoformat(time).timestamp() for time in times]
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    worked = [gap for gap in gaps if gap <= PAUSE_S]
    if sum(worked) < SHORTEST_S:
        return None
    return 3600.0 * len(worked) / sum(worked)
