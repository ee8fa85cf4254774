"""A stall-o-gram worked by hand: stalls, durations and rates, with unknown time points."""

import math
from pathlib import Path

import numpy as np
import pytest

from stallscan.cli.stacks import _within
from stallscan.errors import InputError
from stallscan.series.stallogram import (
    FLOWING,
    STALLED,
    UNKNOWN,
    Stall,
    Stallogram,
    drop_short,
    find_stalls,
    read_stallogram,
)
from stallscan.series.summary import measure_rates, measure_segments
from stallscan.words import percent

CODES = {"1": STALLED, "0": FLOWING, ".": UNKNOWN}


def states(text: str) -> np.ndarray:
    return np.array([CODES[letter] for letter in text], np.int8)


def stallogram(*rows: str, frame_s: float = 2.0) -> Stallogram:
    names = tuple(f"v{number}" for number in range(len(rows)))
    return Stallogram(names, np.array([states(row) for row in rows]), frame_s)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("000000", []),
        ("......", []),
        ("001100", [Stall(2, 4, 2, True)]),
        # Stalled from the start: not seen to begin.
        ("110011", [Stall(0, 2, 2, False), Stall(4, 6, 2, True)]),
        # An unknown point neither ends a stall nor lengthens it.
        ("01.100", [Stall(1, 4, 2, True)]),
        ("..11..", [Stall(2, 4, 2, False)]),
        # Flow between unknown points ends it.
        ("1.0.1", [Stall(0, 1, 1, False), Stall(4, 5, 1, True)]),
    ],
)
def test_stalls_of_a_segment(text: str, expected: list[Stall]) -> None:
    assert find_stalls(states(text)) == expected


@pytest.mark.parametrize(
    ("text", "least", "expected"),
    [
        ("0010110", 2, "0000110"),
        # At the end, or after unknown points, it may be a part of a longer one.
        ("0000001", 2, "000000."),
        ("..10000", 2, "...0000"),
        # The unknown point counts, because blood may have stood there.
        ("01.1000", 3, "01.1000"),
        ("0101010", 1, "0101010"),
    ],
)
def test_short_stalls_are_flow_if_their_ends_are_seen(text: str, least: int, expected: str) -> None:
    assert drop_short(states(text), least).tolist() == states(expected).tolist()


def test_durations_of_segments_by_hand() -> None:
    first, second, third = measure_segments(stallogram("0110010000", "11.1000000", ".........."))
    assert (first.stalls, first.new_stalls) == (2, 2)
    assert (first.cumulative_s, first.longest_s, first.first_start_s) == (6.0, 4.0, 2.0)
    assert first.observed_s == 20.0
    assert (second.stalls, second.new_stalls) == (1, 0)
    assert (second.cumulative_s, second.longest_s, second.first_start_s) == (6.0, 6.0, 0.0)
    assert second.observed_s == 18.0
    assert (third.stalls, third.observed_s, third.first_start_s) == (0, 0.0, None)


def test_prevalence_and_incidence_by_hand() -> None:
    rates = measure_rates(stallogram("0110", "11.0", "0000", "0000", "....", frame_s=15.0))
    assert (rates.segments, rates.unknown) == (4, 1)
    # Stalled of known at the four times: 1 of 4, 2 of 4, 1 of 3, 0 of 4.
    assert rates.prevalence.value == pytest.approx((1 / 4 + 2 / 4 + 1 / 3 + 0) / 4)
    assert rates.incidence.value == 0.5
    # Only the first stall begins while it is watched; 15 time points of 15 s.
    assert rates.new_stalls == 1
    assert rates.observed_min == pytest.approx(15 * 15 / 60)
    assert rates.new_per_min.value == pytest.approx(1 / 3.75)
    assert rates.cumulative_s.value == pytest.approx(30.0)
    for share in (rates.prevalence, rates.incidence, rates.new_per_min):
        assert share.low <= share.value <= share.high
        assert share.low < share.high


def test_no_stall_is_no_certainty() -> None:
    rates = measure_rates(stallogram(*["0" * 30] * 20, frame_s=2.0))
    assert rates.prevalence.value == rates.incidence.value == 0.0
    assert rates.prevalence.high == rates.incidence.high > 0.1
    # In 20 minutes, a rate of 0.184 per minute gives no stall with a chance of 2.5 %.
    assert rates.new_per_min.high == pytest.approx(-math.log(0.025) / 20)
    assert math.isnan(rates.cumulative_s.value)


def test_nothing_known_has_no_figures() -> None:
    rates = measure_rates(stallogram("....", "...."))
    assert (rates.segments, rates.unknown) == (0, 2)
    assert math.isnan(rates.prevalence.value)
    assert math.isnan(rates.incidence.value)


def test_the_interval_of_the_prevalence_covers_the_true_one() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        # A fifth of the segments stall for a quarter of the time: 5 %.
        table = np.zeros((100, 20), np.int8)
        table[rng.random(100) < 0.2, 10:15] = STALLED
        share = measure_rates(Stallogram(("",) * 100, table, 1.0)).prevalence
        covered += share.low <= 0.05 <= share.high
    assert covered >= 16


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = stallogram("01.1", "0000", frame_s=0.1)
    path = tmp_path / "stallogram.csv"
    written.write(path)
    assert path.read_text().splitlines() == ["region,0,0.1,0.2,0.3", "v0,0,1,,1", "v1,0,0,0,0"]
    again = read_stallogram(path)
    assert again.names == written.names
    assert again.frame_s == pytest.approx(0.1)
    assert (again.states == written.states).all()


@pytest.mark.parametrize("text", ["", "region,0,1\nv,2,0\n", "region,0,1\nv,1\n", "a,b\nc,d\n"])
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stallogram.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"stallogram\.csv"):
        read_stallogram(path)


def test_a_single_segment_has_no_interval_of_prevalence():
    rates = measure_rates(stallogram("0001100000"))
    assert _within(rates.prevalence, percent) == "20 %"
    assert _within(rates.incidence, percent).startswith("100 % (2")
