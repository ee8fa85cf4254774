import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from stallscan.catalog import select, tables
from stallscan.catalog.split import folds, limit, split_grouped, split_stratified
from stallscan.errors import InputError, SettingsError, TableError
from tests.tables import LABELS, METADATA


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Files of metadata and of labels."""
    metadata, labels = tmp_path / "metadata.csv", tmp_path / "labels.csv"
    metadata.write_text(METADATA, encoding="utf-8")
    labels.write_text(LABELS, encoding="utf-8")
    return metadata, labels


def make_catalog(stalled: list[int], projects: list[str] | None = None) -> pd.DataFrame:
    """Make the least a split looks at, in an order that is not sorted."""
    names = [f"{100000 + row}.mp4" for row in range(len(stalled))]
    table = pd.DataFrame(
        {"filename": names, "project_id": projects or ["A"] * len(names), "stalled": stalled}
    )
    return table.iloc[::-1]


# Joining


def test_labels_join_in_any_order(files: tuple[Path, Path]) -> None:
    metadata = tables.read_metadata(files[0]).iloc[::-1]
    joined = select.join_labels(metadata, tables.read_labels(files[1]))
    assert tuple(joined.columns) == (*tables.TRAIN_COLUMNS, "stalled")
    assert joined["filename"].tolist() == ["100000.mp4", "100001.mp4", "100002.mp4"]
    assert joined["stalled"].tolist() == [0, 0, 1]


def test_recordings_in_only_one_table_are_named(files: tuple[Path, Path]) -> None:
    metadata = tables.read_metadata(files[0])
    labels = pd.DataFrame({"filename": ["100000.mp4", "x.mp4"], "stalled": [0, 1]})
    with pytest.raises(TableError, match=r"2 .*100001\.mp4, 100002\.mp4; .*1 .*x\.mp4"):
        select.join_labels(metadata, labels)


# Selecting


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    """2,000 recordings: project A with 900 others in tier1, project B with 40."""
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"filename": [f"{100000 + row}.mp4" for row in range(2000)]})
    rows["project_id"] = np.where(rows.index < 1940, "A", "B")
    rows["tier1"] = (rows.index >= 1020) & (rows.index < 1980)
    rows["micro"] = (rows.index >= 1920) & (rows.index < 1940)
    rows["nano"] = (rows.index >= 1930) & (rows.index < 1940)
    rows["stalled"] = (rows.index % 10 == 0).astype(int)
    return rows.iloc[rng.permutation(len(rows))]


@pytest.mark.parametrize(
    ("rule", "count"),
    [("all", 2000), ("tier1", 960), ("micro", 20), ("nano", 10), ("third-place", 20 + 500 + 40)],
)
def test_rules_select(small: pd.DataFrame, rule: str, count: int) -> None:
    selected = select.select(small, rule, 0)
    assert len(selected) == count
    assert selected["filename"].is_unique
    assert selected["filename"].is_monotonic_increasing
    assert rule == "all" or selected["tier1"].all()


def test_a_seed_draws_the_same_whatever_the_order(small: pd.DataFrame) -> None:
    selected = select.select(small, "third-place", 5)
    again = select.select(small.sort_values("filename", ascending=False), "third-place", 5)
    assert_frame_equal(selected, again)
    other = select.select(small, "third-place", 6)
    assert set(selected["filename"]) != set(other["filename"])


def test_unknown_rules_and_seeds_are_refused(small: pd.DataFrame) -> None:
    with pytest.raises(SettingsError, match=r"third_place \(did you mean third-pl"):
        select.select(small, "third_place", 0)
    with pytest.raises(SettingsError, match=r"seed -1 .*\b0 to 4294967295"):
        select.select(small, "third-place", -1)


def test_a_rule_says_which_column_it_lacks(small: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"column micro, .*rule micro"):
        select.select(small[["filename", "stalled"]], "micro", 0)


def test_the_selection_is_counted() -> None:
    selection = select.Selection.of(make_catalog([1] * 706 + [0] * 7225))
    assert (selection.count, selection.stalled, selection.flowing) == (7931, 706, 7225)
    assert selection.share_flowing == 7225 / 7931
    assert selection.class_weight == 7225 / 706
    assert str(selection) == ("7,931 recordings, 706 stalled, 91.1 % flowing, class weight 10.23")


@pytest.mark.parametrize(
    ("count", "stalled", "words"),
    [(0, 0, "empty"), (3, 0, "3 .*flowing"), (3, 3, "3 .*stalled")],
)
def test_a_class_weight_needs_both_classes(count: int, stalled: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        _ = select.Selection(count, stalled).class_weight


def test_a_selection_without_a_class_is_not_written(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    metadata, labels = files
    out = tmp_path / "out.csv"
    with pytest.raises(InputError, match=r"1 .*stalled"):
        select.select_to_file(metadata, labels, "micro", 0, out)
    assert not out.exists()
    assert select.select_to_file(metadata, labels, "all", 0, out) == select.Selection(3, 1)
    joined = select.join_labels(tables.read_metadata(metadata), tables.read_labels(labels))
    assert_frame_equal(pd.read_csv(out), joined, check_dtype=False)
    assert_frame_equal(tables.read_labels(out), joined[["filename", "stalled"]])


# Splitting


def names(table: pd.DataFrame) -> list[str]:
    return table["filename"].tolist()


def assert_nothing_lost(table: pd.DataFrame, parts: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    train, validation = parts
    assert sorted(names(train) + names(validation)) == sorted(names(table))
    for part in parts:
        assert names(part) == sorted(names(part))
        # A row keeps its own label and project.
        own = table.set_index("filename").loc[names(part)].reset_index()
        assert_frame_equal(own, part[own.columns])


labelled = st.lists(st.integers(0, 1), min_size=4, max_size=60).filter(
    lambda stalled: 2 <= sum(stalled) <= len(stalled) - 2
)
seeds = st.integers(0, 2**32 - 1)


@given(labelled, st.floats(0.001, 0.999), seeds)
@settings(deadline=None)
def test_stratified_splits_lose_nothing(stalled: list[int], fraction: float, seed: int) -> None:
    table = make_catalog(stalled)
    train, validation = split_stratified(table, fraction, seed)
    assert_nothing_lost(table, (train, validation))
    for label in (0, 1):
        held_out, count = sum(validation["stalled"] == label), stalled.count(label)
        assert 1 <= held_out < count
        assert abs(held_out - fraction * count) <= 1


def can_be_split(rows: list[tuple[int, str]]) -> bool:
    """Try every choice of groups: does one leave both classes on both sides."""
    groups = sorted({group for _, group in rows})
    return any(
        {label for label, group in rows if group in chosen}
        == {label for label, group in rows if group not in chosen}
        == {0, 1}
        for count in range(1, len(groups))
        for chosen in combinations(groups, count)
    )


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("ABCDE")), min_size=4, max_size=60),
    st.floats(0.001, 0.999),
    seeds,
)
@settings(deadline=None)
def test_grouped_splits_lose_nothing(
    rows: list[tuple[int, str]], fraction: float, seed: int
) -> None:
    table = make_catalog([label for label, _ in rows], [project for _, project in rows])
    if not can_be_split(rows):
        with pytest.raises(InputError, match="by project_id"):
            split_grouped(table, fraction, seed)
        return
    train, validation = split_grouped(table, fraction, seed)
    assert_nothing_lost(table, (train, validation))
    assert not set(train["project_id"]) & set(validation["project_id"])
    assert set(train["stalled"]) == set(validation["stalled"]) == {0, 1}


@given(labelled, st.integers(2, 4), seeds, st.booleans())
@settings(deadline=None, max_examples=40)
def test_folds_validate_each_recording_once(
    stalled: list[int], k: int, seed: int, grouped: bool
) -> None:
    projects = [str(row % 7) for row in range(len(stalled))]
    table = make_catalog(stalled, projects)
    if min(sum(stalled), len(stalled) - sum(stalled)) < k:
        with pytest.raises(InputError, match=rf"{k} folds .*\b{k} recordings"):
            folds(table, k, seed)
        return
    splits = folds(table, k, seed, "project_id" if grouped else None)
    assert len(splits) == k
    for parts in splits:
        assert_nothing_lost(table, parts)
        shared = set(parts[0]["project_id"]) & set(parts[1]["project_id"])
        assert not grouped or not shared
    validated = [name for _, validation in splits for name in names(validation)]
    assert sorted(validated) == sorted(names(table))


Splitter = Callable[[pd.DataFrame, int], tuple[pd.DataFrame, pd.DataFrame]]


@pytest.mark.parametrize(
    "split",
    [
        lambda table, seed: split_stratified(table, 0.2, seed),
        lambda table, seed: split_grouped(table, 0.2, seed),
        lambda table, seed: folds(table, 4, seed)[0],
    ],
    ids=["stratified", "grouped", "folds"],
)
def test_splits_depend_on_the_seed_but_not_on_the_order(split: Splitter) -> None:
    table = make_catalog([0, 0, 0, 1] * 50, [f"mouse {row // 5}" for row in range(200)])
    first = split(table, 3)
    again = split(table.sort_values("filename"), 3)
    assert_frame_equal(first[0], again[0])
    assert_frame_equal(first[1], again[1])
    assert names(first[1]) != names(split(table, 4)[1])


def test_grouped_splits_come_near_the_fraction() -> None:
    sizes = [5, 10, 20, 20, 30, 40, 60, 80, 100, 135]
    projects = [f"p{group}" for group, size in enumerate(sizes) for _ in range(size)]
    table = make_catalog([0, 0, 0, 0, 1] * 100, projects)
    for fraction in (0.1, 0.2, 0.5):
        _, validation = split_grouped(table, fraction, 0)
        assert len(validation) / 500 == pytest.approx(fraction, abs=0.03)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    table = make_catalog([0, 1] * 5, list("AABBCCDDEE"))
    with pytest.raises(SettingsError, match=f"fraction {fraction} "):
        split_stratified(table, fraction, 0)
    with pytest.raises(SettingsError, match=f"fraction {fraction} "):
        split_grouped(table, fraction, 0)


def test_splits_that_cannot_be_made_say_why() -> None:
    table = make_catalog([0, 0, 0, 1])
    with pytest.raises(InputError, match="3 flowing and 1 stalled"):
        split_stratified(table, 0.5, 0)
    with pytest.raises(InputError, match="by project_id"):
        split_grouped(table, 0.5, 0)
    with pytest.raises(InputError, match=r"column project, .*\(did you mean project_id\?\)"):
        split_grouped(table, 0.5, 0, by="project")
    with pytest.raises(SettingsError, match=r"1 folds .*\b2\b"):
        folds(table, 1, 0)
    with pytest.raises(InputError, match=r"2 folds .*project_id.*\b1\b"):
        folds(make_catalog([0, 0, 1, 1]), 2, 0, "project_id")


# The real tables: every figure is published (docs/facts.md 2 and 4)


@pytest.fixture(scope="module")
def real_catalog(real_dir: Path) -> pd.DataFrame:
    folder = real_dir / "metadata"
    metadata = tables.read_metadata(folder / "train_metadata.csv.gz")
    return select.join_labels(metadata, tables.read_labels(folder / "train_labels.csv.gz"))


def test_the_real_table_has_the_published_counts(real_catalog: pd.DataFrame) -> None:
    def counts(rows: pd.DataFrame) -> tuple[int, int]:
        return len(rows), int(rows["stalled"].sum())

    assert counts(real_catalog) == (573_048, 1_887)
    assert counts(real_catalog[real_catalog["tier1"]]) == (540_242, 706)
    assert counts(real_catalog[real_catalog["micro"]]) == (2_399, 706)
    assert counts(real_catalog[real_catalog["nano"]]) == (1_413, 706)
    expert_only = real_catalog[real_catalog["project_id"] == "L"]
    assert counts(expert_only) == (444, 133)
    assert (expert_only["crowd_score"] == 0).all()
    assert "".join(sorted(real_catalog["project_id"].unique())) == "ACDEFGHIJKLM"
    frames = real_catalog["num_frames"]
    assert frames.quantile([0, 0.25, 0.5, 0.75, 1]).tolist() == [17, 49, 56, 66, 434]


def test_the_crowd_agrees_with_the_label_as_published(real_catalog: pd.DataFrame) -> None:
    crowd = (real_catalog["crowd_score"] >= 0.5).astype(float)
    # The correlation of two binary variables is Matthews' coefficient.
    assert crowd.corr(real_catalog["stalled"].astype(float)) == pytest.approx(0.76, abs=0.005)


def test_the_published_selection_of_the_real_tables(real_dir: Path, tmp_path: Path) -> None:
    folder, out = real_dir / "metadata", tmp_path / "selected.csv"
    started = time.process_time()
    selection = select.select_to_file(
        folder / "train_metadata.csv.gz", folder / "train_labels.csv.gz", "third-place", 0, out
    )
    assert time.process_time() - started < 10
    assert str(selection) == "7,931 recordings, 706 stalled, 91.1 % flowing, class weight 10.23"
    selected = pd.read_csv(out)
    assert select.Selection.of(selected) == selection
    assert selected["tier1"].all()
    others = selected[~selected["micro"]].groupby("project_id").size()
    assert others.drop("L").eq(500).all()
    assert others["L"] == 32


def test_the_same_seed_selects_the_same_real_rows(real_catalog: pd.DataFrame) -> None:
    selected = select.select(real_catalog, "third-place", 0)
    again = select.select(real_catalog.iloc[::-1], "third-place", 0)
    assert_frame_equal(selected, again)
    other = select.select(real_catalog, "third-place", 1)
    assert len(other) == len(selected)
    assert not other["filename"].equals(selected["filename"])


def test_the_published_split_of_the_real_selection(real_catalog: pd.DataFrame) -> None:
    selected = select.select(real_catalog, "third-place", 0)
    train, validation = split_stratified(selected, 0.1, 0)
    assert select.Selection.of(validation) == select.Selection(722 + 71, 71)
    assert len(train) == 7931 - 793
    train, validation = split_grouped(selected, 0.2, 0)
    assert len(validation) / len(selected) == pytest.approx(0.2, abs=0.05)
    assert validation["stalled"].sum() / 706 == pytest.approx(0.2, abs=0.05)


def _tiers():
    """100 recordings: 10 stalled, of which 4 in tier1, 3 sure and 3 unsure outside of it."""
    stalled = np.arange(100) < 10
    return pd.DataFrame(
        {
            "filename": [f"{row:03d}.mp4" for row in range(100)],
            "project_id": ["A", "C"] * 50,
            "crowd_score": np.where(np.arange(100) < 7, 0.7, np.where(stalled, 0.55, 0.0)),
            "tier1": (np.arange(100) < 4) | (np.arange(100) >= 20),
            "micro": np.arange(100) < 4,
            "stalled": stalled.astype(int),
        }
    )


@pytest.mark.parametrize(
    ("rule", "count", "stalled"),
    [("tier1", 84, 4), ("tier1+stalls", 87, 7), ("third-place+stalls", 87, 7)],
)
def test_sure_stalls_outside_tier1_can_be_added(rule, count, stalled):
    chosen = select.select(_tiers(), rule, seed=0)
    assert (len(chosen), chosen["stalled"].sum()) == (count, stalled)


def test_the_rules_of_the_first_place_and_the_matlab_prize_take_every_stall(monkeypatch):
    for rule in ("first-place", "matlab-prize"):
        chosen = select.select(_tiers(), rule, seed=0)
        assert len(chosen) == 100
    take = select._all_stalled_and(30)
    chosen = take(_tiers(), np.random.default_rng(0))
    assert (len(chosen), chosen["stalled"].sum()) == (30, 10)


def test_the_last_stage_of_the_first_place_is_within_its_first():
    first = select.select(_tiers(), "first-place", seed=3)
    last = select.select(_tiers(), "first-place-tier1", seed=3)
    assert set(last["filename"]) < set(first["filename"])
    assert last["tier1"].all()


@pytest.mark.parametrize("stalled", [2, 5, 7, 50])
def test_a_limit_is_kept_exactly(stalled):
    table = pd.DataFrame(
        {
            "filename": [f"{index:03}.mp4" for index in range(100)],
            "stalled": np.arange(100) < stalled,
        }
    ).astype({"stalled": int})
    for count in range(2, 101):
        limited = limit(table, count, seed=0)
        assert len(limited) == count
        assert abs(limited["stalled"].sum() - count * stalled / 100) <= 1


def test_a_limit_keeps_both_classes():
    limited = limit(_tiers(), 20, seed=0)
    assert len(limited) == 20
    assert limited["stalled"].sum() == 2
    assert len(limit(_tiers(), 500, seed=0)) == 100
