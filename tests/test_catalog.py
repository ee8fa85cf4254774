import gzip
import re
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

from stallscan import catalog
from stallscan.errors import InputError, SettingsError, TableError

METADATA = """\
filename,url,project_id,num_frames,crowd_score,tier1,micro,nano
100000.mp4,s3://bucket/train/100000.mp4,M,54,0.0,True,False,False
100001.mp4,s3://bucket/train/100001.mp4,F,48,0.0227686,False,False,False
100002.mp4,s3://bucket/train/100002.mp4,F,122,1.0,True,True,True
"""
TEST_METADATA = """\
filename,url,num_frames
100032.mp4,s3://bucket/test/100032.mp4,37
"""
LABELS = """\
filename,stalled
100002.mp4,1
100000.mp4,0
100001.mp4,0
"""

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def _save(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return _save


def make_catalog(stalled: list[int], projects: list[str] | None = None) -> pd.DataFrame:
    """Make the least a split looks at, in an order that is not sorted."""
    names = [f"{100000 + row}.mp4" for row in range(len(stalled))]
    table = pd.DataFrame(
        {"filename": names, "project_id": projects or ["A"] * len(names), "stalled": stalled}
    )
    return table.iloc[::-1]


# Reading


def test_train_metadata_have_their_types(save: Save) -> None:
    table = catalog.read_metadata(save(METADATA))
    assert tuple(table.columns) == catalog.TRAIN_COLUMNS
    assert table["num_frames"].tolist() == [54, 48, 122]
    assert table["num_frames"].dtype == np.int64
    assert table["crowd_score"].tolist() == [0.0, 0.0227686, 1.0]
    assert table["tier1"].tolist() == [True, False, True]
    assert {table[column].dtype for column in ("tier1", "micro", "nano")} == {np.dtype(bool)}


def test_test_metadata_are_read(save: Save) -> None:
    table = catalog.read_metadata(save(TEST_METADATA))
    assert table.to_dict("list") == {
        "filename": ["100032.mp4"],
        "url": ["s3://bucket/test/100032.mp4"],
        "num_frames": [37],
    }


def test_labels_keep_the_order_of_the_file(save: Save) -> None:
    table = catalog.read_labels(save(LABELS))
    assert table["filename"].tolist() == ["100002.mp4", "100000.mp4", "100001.mp4"]
    assert table["stalled"].tolist() == [1, 0, 0]
    assert table["stalled"].dtype == np.int64


def test_labels_of_a_laboratory_may_have_other_columns(save: Save) -> None:
    table = catalog.read_labels(save("scorer,filename,note,note,stalled\nX,a.tif,,NA,1\n"))
    assert table.to_dict("list") == {"filename": ["a.tif"], "stalled": [1]}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("\n100001.mp4", '\n"100001.mp4"'),
        lambda text: "\n".join(",".join(line.split(",")[::-1]) for line in text.split("\n")),
    ],
    ids=["crlf", "byte order mark", "no last line feed", "empty lines", "quotes", "column order"],
)
def test_other_ways_to_write_the_same_table(save: Save, change: Callable[[str], str]) -> None:
    expected = catalog.read_metadata(save(METADATA))
    assert_frame_equal(catalog.read_metadata(save(change(METADATA))), expected)


def test_words_that_pandas_would_take_for_missing_stay_words(save: Save) -> None:
    table = catalog.read_metadata(save(METADATA.replace(",F,", ",NA,").replace("100000", "nan")))
    assert table["project_id"].tolist() == ["M", "NA", "NA"]
    assert table["filename"][0] == "nan.mp4"


# Wrong tables, each with its sentence


def wrong_cell(column: str, text: str) -> str:
    lines = [line.split(",") for line in METADATA.splitlines()]
    lines[2][lines[0].index(column)] = text
    return "".join(",".join(cells) + "\n" for cells in lines)


@pytest.mark.parametrize(
    ("column", "text", "sentence"),
    [
        ("num_frames", "0", "num_frames is '0', expected a whole number of at least 1"),
        ("num_frames", "-3", "num_frames is '-3', expected a whole number of at least 1"),
        ("num_frames", "48.5", "num_frames is '48.5', expected a whole number of at least 1"),
        ("num_frames", "", "num_frames is empty, expected a whole number of at least 1"),
        ("num_frames", "9" * 20, "num_frames is '99999999999999999999', expected a whole"),
        ("crowd_score", "1.01", "crowd_score is '1.01', expected a number from 0 to 1"),
        ("crowd_score", "-0.1", "crowd_score is '-0.1', expected a number from 0 to 1"),
        ("crowd_score", "nan", "crowd_score is 'nan', expected a number from 0 to 1"),
        ("crowd_score", "high", "crowd_score is 'high', expected a number from 0 to 1"),
        ("tier1", "yes", "tier1 is 'yes', expected True or False"),
        ("micro", "true", "micro is 'true', expected True or False"),
        ("nano", "", "nano is empty, expected True or False"),
        ("project_id", "", "project_id is empty, expected the name of a project"),
    ],
)
def test_a_wrong_cell_is_named(save: Save, column: str, text: str, sentence: str) -> None:
    path = save(wrong_cell(column, text))
    with pytest.raises(TableError, match=re.escape(f"{path}: line 3 (100001.mp4): {sentence}")):
        catalog.read_metadata(path)


@pytest.mark.parametrize("text", ["2", "", "1.0", "stalled", "-1"])
def test_a_wrong_label_is_named(save: Save, text: str) -> None:
    path = save(LABELS.replace("100000.mp4,0", f"100000.mp4,{text}"))
    shown = repr(text) if text else "empty"
    with pytest.raises(TableError, match=rf"line 3 \(100000.mp4\): stalled is {shown}, expected 0"):
        catalog.read_labels(path)


def test_an_empty_filename_is_named(save: Save) -> None:
    path = save(LABELS.replace("100000.mp4", ""))
    with pytest.raises(TableError, match=r"line 3 \(no filename\): filename is empty, expected"):
        catalog.read_labels(path)


def test_a_duplicate_is_named_with_its_first_line(save: Save) -> None:
    path = save(LABELS.replace("100001.mp4", "100002.mp4"))
    sentence = r"line 4 \(100002.mp4\): the same filename stands on line 2 already"
    with pytest.raises(TableError, match=sentence):
        catalog.read_labels(path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("100000.mp4", r"line 3 \(100000.mp4\): has 1 cells, expected 2"),
        ("100000.mp4,0,0", r"line 3 \(100000.mp4\): has 3 cells, expected 2"),
    ],
)
def test_a_row_with_too_few_or_many_cells_is_named(save: Save, row: str, sentence: str) -> None:
    with pytest.raises(TableError, match=sentence):
        catalog.read_labels(save(LABELS.replace("100000.mp4,0", row)))


def test_if_every_row_is_ragged_each_is_named(save: Save) -> None:
    with pytest.raises(TableError, match=r"line 2 \(a\): has 3 .*; line 3 \(b\): has 3 cells"):
        catalog.read_labels(save("filename,stalled\na,0,0\nb,1,1\n"))


def test_lines_are_those_of_the_file_even_after_empty_and_broken_ones(save: Save) -> None:
    path = save('filename,note,stalled\na,"two\nlines",0\n\nb,,7\n')
    with pytest.raises(TableError, match=r"line 5 \(b\): stalled is '7'"):
        catalog.read_labels(path)


def test_all_wrong_rows_are_named_in_the_order_of_the_file(save: Save) -> None:
    path = save("filename,stalled\na,2\na,0\n,1\nb\n")
    with pytest.raises(TableError) as caught:
        catalog.read_labels(path)
    assert str(caught.value) == (
        f"{path}: line 2 (a): stalled is '2', expected 0 or 1; "
        "line 3 (a): the same filename stands on line 2 already; "
        "line 4 (no filename): filename is empty, expected the name of a recording; "
        "line 5 (b): has 1 cells, expected 2"
    )


def test_beyond_ten_wrong_rows_the_others_are_counted(save: Save) -> None:
    path = save("filename,stalled\n" + "".join(f"{row},2\n" for row in range(1210)))
    with pytest.raises(TableError) as caught:
        catalog.read_labels(path)
    assert str(caught.value).count("line ") == 10
    assert str(caught.value).endswith("; and 1,200 more")


def test_a_long_wrong_cell_is_shortened(save: Save) -> None:
    with pytest.raises(TableError) as caught:
        catalog.read_labels(save(f"filename,stalled\na,{'x' * 10000}\n"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            "filename,label",
            "column stalled is missing; expected columns parted by commas: filename, stalled$",
        ),
        ("filename,Stalled", r"column stalled is missing \(is it the one called 'Stalled'\?\)"),
        ("filename;stalled", r"column filename is missing .*; expected columns parted by commas"),
        ("filename,stalled,stalled", "column stalled stands twice"),
    ],
)
def test_wrong_columns_of_labels(save: Save, header: str, sentence: str) -> None:
    with pytest.raises(TableError, match=sentence):
        catalog.read_labels(save(f"{header}\na,0,0\n"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",crowd_score", ",crowdscore", "column crowd_score is missing (is it the one called"),
        (",crowd_score", ",crowdscore", "'crowdscore' is unknown (did you mean crowd_score?)"),
        (",nano", ",nano,mouse", "column 'mouse' is unknown (known: filename, url, project_id,"),
        (
            ",tier1",
            "",
            "column tier1 is missing; expected columns parted by commas: filename, url,",
        ),
    ],
)
def test_wrong_columns_of_metadata(save: Save, old: str, new: str, sentence: str) -> None:
    with pytest.raises(TableError, match=re.escape(sentence)):
        catalog.read_metadata(save(METADATA.replace(old, new)))


def test_labels_are_no_metadata(save: Save) -> None:
    with pytest.raises(TableError, match="column url is missing; column num_frames is missing; "):
        catalog.read_metadata(save(LABELS))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "the table is empty"),
        ("a.csv", b"\n\n", "the table is empty"),
        ("a.csv", b"filename,stalled\n", "the table has a header but no rows"),
        ("a.csv", b"filename,stalled\nm\xfcller.tif,0\n", "byte 18 is not UTF-8; save the table"),
        ("a.csv", gzip.compress(LABELS.encode()), "byte 1 is not UTF-8"),
        ("a.csv", b'filename,stalled\na,"0\nb,1\n', "not readable as CSV from line 2 on"),
        ("a.csv.gz", LABELS.encode(), "not readable as gzip"),
        ("a.csv.gz", gzip.compress(LABELS.encode())[:-12], "not readable as gzip"),
        ("a.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "not readable as gzip"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError, match=f"{re.escape(str(path))}: {sentence}"):
        catalog.read_labels(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        catalog.read_labels(tmp_path / "labels.csv")
    with pytest.raises(TableError, match=r"cannot be read \(Is a directory\)"):
        catalog.read_labels(tmp_path)


# Joining and writing


def test_labels_join_in_any_order(save: Save) -> None:
    metadata = catalog.read_metadata(save(METADATA)).iloc[::-1]
    joined = catalog.join_labels(metadata, catalog.read_labels(save(LABELS)))
    assert tuple(joined.columns) == (*catalog.TRAIN_COLUMNS, "stalled")
    assert joined["filename"].tolist() == ["100000.mp4", "100001.mp4", "100002.mp4"]
    assert joined["stalled"].tolist() == [0, 0, 1]


def test_recordings_in_only_one_table_are_named(save: Save) -> None:
    metadata = catalog.read_metadata(save(METADATA))
    labels = catalog.read_labels(save("filename,stalled\n100000.mp4,0\nx.mp4,1\n"))
    with pytest.raises(TableError) as caught:
        catalog.join_labels(metadata, labels)
    assert str(caught.value) == (
        "metadata and labels must name the same recordings, but there are "
        "2 with metadata but no label: 100001.mp4, 100002.mp4; "
        "and 1 with a label but no metadata: x.mp4"
    )


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_written_tables_have_the_exact_form(tmp_path: Path, save: Save, name: str) -> None:
    path = tmp_path / "out" / name
    catalog.write_table(catalog.read_metadata(save(METADATA)), path)
    first = path.read_bytes()
    content = gzip.decompress(first) if name.endswith("gz") else first
    assert content == METADATA.encode()
    catalog.write_table(catalog.read_metadata(path), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == [name]


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
    selected = catalog.select(small, rule, 0)
    assert len(selected) == count
    assert selected["filename"].is_unique
    assert selected["filename"].is_monotonic_increasing
    assert rule == "all" or selected["tier1"].all()


def test_a_seed_draws_the_same_whatever_the_order(small: pd.DataFrame) -> None:
    selected = catalog.select(small, "third-place", 5)
    again = catalog.select(small.sort_values("filename", ascending=False), "third-place", 5)
    assert_frame_equal(selected, again)
    other = catalog.select(small, "third-place", 6)
    assert set(selected["filename"]) != set(other["filename"])


def test_unknown_rules_and_seeds_are_refused(small: pd.DataFrame) -> None:
    with pytest.raises(SettingsError, match=r"unknown rule third_place \(did you mean third-pl"):
        catalog.select(small, "third_place", 0)
    with pytest.raises(SettingsError, match="seed -1 is out of range"):
        catalog.select(small, "third-place", -1)


def test_a_rule_says_which_column_it_lacks(small: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="rule micro needs the column micro, which the catalog"):
        catalog.select(small[["filename", "stalled"]], "micro", 0)


def test_the_selection_is_counted() -> None:
    selection = catalog.Selection.of(make_catalog([1] * 706 + [0] * 7225))
    assert (selection.count, selection.stalled, selection.flowing) == (7931, 706, 7225)
    assert selection.share_flowing == 7225 / 7931
    assert selection.class_weight == 7225 / 706
    assert str(selection) == ("7,931 recordings, 706 stalled, 91.1 % flowing, class weight 10.23")


@pytest.mark.parametrize(
    ("count", "stalled", "sentence"),
    [
        (0, 0, "the selection holds no recording"),
        (3, 0, "all 3 selected recordings are flowing; training needs both classes"),
        (3, 3, "all 3 selected recordings are stalled; training needs both classes"),
    ],
)
def test_a_class_weight_needs_both_classes(count: int, stalled: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        _ = catalog.Selection(count, stalled).class_weight


def test_a_selection_without_a_class_is_not_written(tmp_path: Path) -> None:
    metadata, labels, out = tmp_path / "m.csv", tmp_path / "l.csv", tmp_path / "out.csv"
    metadata.write_text(METADATA, encoding="utf-8")
    labels.write_text(LABELS, encoding="utf-8")
    with pytest.raises(InputError, match="all 1 selected recordings are stalled"):
        catalog.select_to_file(metadata, labels, "micro", 0, out)
    assert not out.exists()
    assert catalog.select_to_file(metadata, labels, "all", 0, out) == catalog.Selection(3, 1)
    joined = catalog.join_labels(catalog.read_metadata(metadata), catalog.read_labels(labels))
    assert_frame_equal(catalog.read_catalog(out), joined)
    assert_frame_equal(catalog.read_labels(out), joined[["filename", "stalled"]])


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
    train, validation = catalog.split_stratified(table, fraction, seed)
    assert_nothing_lost(table, (train, validation))
    for label in (0, 1):
        held_out, count = sum(validation["stalled"] == label), stalled.count(label)
        assert 1 <= held_out < count
        assert abs(held_out - fraction * count) <= 1


def can_be_parted(rows: list[tuple[int, str]]) -> bool:
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
    if not can_be_parted(rows):
        with pytest.raises(InputError, match="cannot be parted by project_id"):
            catalog.split_grouped(table, fraction, seed)
        return
    train, validation = catalog.split_grouped(table, fraction, seed)
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
        with pytest.raises(InputError, match=f"{k} folds needs at least {k} recordings of each"):
            catalog.folds(table, k, seed)
        return
    splits = catalog.folds(table, k, seed, "project_id" if grouped else None)
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
        lambda table, seed: catalog.split_stratified(table, 0.2, seed),
        lambda table, seed: catalog.split_grouped(table, 0.2, seed),
        lambda table, seed: catalog.folds(table, 4, seed)[0],
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
        _, validation = catalog.split_grouped(table, fraction, 0)
        assert len(validation) / 500 == pytest.approx(fraction, abs=0.03)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    table = make_catalog([0, 1] * 5, list("AABBCCDDEE"))
    with pytest.raises(SettingsError, match="cannot be split off"):
        catalog.split_stratified(table, fraction, 0)
    with pytest.raises(SettingsError, match="cannot be split off"):
        catalog.split_grouped(table, fraction, 0)


def test_splits_that_cannot_be_made_say_why() -> None:
    table = make_catalog([0, 0, 0, 1])
    with pytest.raises(InputError, match="there are 3 flowing and 1 stalled"):
        catalog.split_stratified(table, 0.5, 0)
    with pytest.raises(InputError, match="cannot be parted by project_id so that both parts"):
        catalog.split_grouped(table, 0.5, 0)
    with pytest.raises(InputError, match=r"column project, which .* \(did you mean project_id\?\)"):
        catalog.split_grouped(table, 0.5, 0, by="project")
    with pytest.raises(SettingsError, match="1 folds cannot be made; expected at least 2"):
        catalog.folds(table, 1, 0)
    with pytest.raises(InputError, match="there are 1 different project_id, too few for 2 folds"):
        catalog.folds(make_catalog([0, 0, 1, 1]), 2, 0, "project_id")


# The real tables: every figure is published (FACTS 2 and 4)


@pytest.fixture(scope="module")
def real_catalog(real_dir: Path) -> pd.DataFrame:
    tables = real_dir / "metadata"
    metadata = catalog.read_metadata(tables / "train_metadata.csv.gz")
    return catalog.join_labels(metadata, catalog.read_labels(tables / "train_labels.csv.gz"))


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
    tables, out = real_dir / "metadata", tmp_path / "selected.csv"
    started = time.process_time()
    selection = catalog.select_to_file(
        tables / "train_metadata.csv.gz", tables / "train_labels.csv.gz", "third-place", 0, out
    )
    assert time.process_time() - started < 10
    assert str(selection) == "7,931 recordings, 706 stalled, 91.1 % flowing, class weight 10.23"
    selected = catalog.read_catalog(out)
    assert catalog.Selection.of(selected) == selection
    assert selected["tier1"].all()
    others = selected[~selected["micro"]].groupby("project_id").size()
    assert others.drop("L").eq(500).all()
    assert others["L"] == 32


def test_the_same_seed_selects_the_same_real_rows(real_catalog: pd.DataFrame) -> None:
    selected = catalog.select(real_catalog, "third-place", 0)
    again = catalog.select(real_catalog.iloc[::-1], "third-place", 0)
    assert_frame_equal(selected, again)
    other = catalog.select(real_catalog, "third-place", 1)
    assert len(other) == len(selected)
    assert not other["filename"].equals(selected["filename"])


def test_the_published_split_of_the_real_selection(real_catalog: pd.DataFrame) -> None:
    selected = catalog.select(real_catalog, "third-place", 0)
    train, validation = catalog.split_stratified(selected, 0.1, 0)
    assert catalog.Selection.of(validation) == catalog.Selection(722 + 71, 71)
    assert len(train) == 7931 - 793
    train, validation = catalog.split_grouped(selected, 0.2, 0)
    assert len(validation) / len(selected) == pytest.approx(0.2, abs=0.05)
    assert validation["stalled"].sum() / 706 == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("name", ["test_metadata", "submission_format"])
def test_real_tables_are_written_as_they_were(real_dir: Path, tmp_path: Path, name: str) -> None:
    path = real_dir / "metadata" / f"{name}.csv.gz"
    read = catalog.read_metadata if name == "test_metadata" else catalog.read_labels
    catalog.write_table(read(path), tmp_path / f"{name}.csv")
    assert (tmp_path / f"{name}.csv").read_bytes() == gzip.decompress(path.read_bytes())
