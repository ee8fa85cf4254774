"""Scoring in threads: the order of results, the time limit, and the end of the threads."""

import threading
import time

import pytest

from stallscan.engines import stream
from tests import tasks


def test_threads_keep_the_order_and_raise_if_an_item_takes_too_long():
    assert list(stream.in_threads(tasks.take_time, range(7), 2, lambda _: 60)) == [*range(7)]
    results = stream.in_threads(
        lambda seconds: time.sleep(seconds) or seconds, [0, 0, 3], 2, lambda _: 0.2
    )
    assert [next(results), next(results)] == [0, 0]
    with pytest.raises(stream.LateError, match=r"0\.2 s"):
        next(results)


def test_threads_end():
    before = set(threading.enumerate())
    results = stream.in_threads(tasks.double, range(9), 2, lambda _: 60)
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before
