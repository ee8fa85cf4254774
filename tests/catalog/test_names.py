"""Names of recordings, paired: a pair is right, or it is not made."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stallscan.catalog import names
from stallscan.recordings import find

FOLDERS = ["m1", "m2", "M1", "Mäuse", "a b", "x"]
FILES = ["001", "002", "é", "É", "scan.left"]
ENDINGS = ["", ".mp4", ".avi", ".MP4", ".ome.tif"]

NAME = st.builds(
    lambda folders, file, ending: "/".join([*folders, file + ending]),
    st.lists(st.sampled_from(FOLDERS), max_size=3),
    st.sampled_from(FILES),
    st.sampled_from(ENDINGS),
)


def spelled(draw, name):
    """Write a recording's name as somebody else might."""
    parts = name.split("/")
    parts = parts[draw(st.integers(0, len(parts) - 1)) :]
    if len(parts) == len(name.split("/")):
        parts = draw(st.sampled_from([[], ["."], ["C:", "data"], ["", "study", "x"]])) + parts
    written = draw(st.sampled_from("/\\")).join(parts)
    written = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), written)
    blanks = st.sampled_from(["", " ", "\u00a0"])
    return draw(blanks) + written + draw(blanks)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_pair_is_right_or_not_made(data):
    recordings = data.draw(st.lists(NAME, min_size=1, max_size=6, unique=True))
    # Labels of some of them in any spelling; the truth is which recording each was written for.
    labelled = data.draw(st.lists(st.sampled_from(range(len(recordings))), unique=True))
    labels = {}
    for truth in labelled:
        label = spelled(data.draw, recordings[truth])
        # Who writes a short name that is another recording's whole name means that one.
        form = names.forms([label])[0]
        if form in names.forms(recordings) and form != names.forms([recordings[truth]])[0]:
            continue
        labels.setdefault(label, truth)
    written = list(labels)
    pairs = names.pair(recordings, written)
    for recording, partner in enumerate(pairs.partners):
        assert partner == -1 or labels[written[partner]] == recording
    used = [partner for partner in pairs.partners if partner >= 0]
    assert len(used) == len(set(used))


@settings(max_examples=50, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=8, unique=True), st.data())
def test_all_find_their_partners_below_another_folder(recordings, data):
    separator = data.draw(st.sampled_from("/\\"))
    written = [
        unicodedata.normalize("NFD", separator.join(["D:", "of nobody", *name.split("/")]))
        for name in recordings
    ]
    pairs = names.pair(recordings, written)
    # Names that are the end of another one may mean either.
    paths = [f"/{name}" for name in recordings]
    single = [
        row
        for row, path in enumerate(paths)
        if sum(other.endswith(path) or path.endswith(other) for other in paths) == 1
    ]
    assert [pairs.partners[row] for row in single] == single


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("m1/001.mp4", "m9/001.mp4"),
        ("m1/001.mp4", "01.mp4"),
        ("m1/001.mp4", "xm1/001.mp4"),
        ("001.mp4", "001.mp4.bak"),
        ("scan.left.mp4", "scan.mp4"),
        ("m\\xfcs1.mp4", "xfcs1.mp4"),
        ("C:/m1/001.mp4", "D:/m1/001.mp4"),
        ("001.mp4", ""),
    ],
)
def test_names_of_different_recordings(ours, theirs):
    assert names.pair([ours], [theirs]).partners == [-1]


@pytest.mark.parametrize(
    ("ours", "theirs", "how"),
    [
        ("m1/001.mp4", "m1\\001.mp4", None),
        ("m1/001.mp4", ".\\m1\\001.mp4 ", None),
        ("m1/Ma\u0308use.mp4", "m1/M\u00e4use.mp4", None),
        ("m\\xfcs1.mp4", "m\\xfcs1.mp4", None),
        ("m1/001.mp4", "C:\\data\\m1\\001.mp4", "by the end of their paths"),
        ("m1/001.mp4", "s3://bucket/m1/001.mp4", "by the end of their paths"),
        ("m1/001.mp4", "001.mp4", "by file name alone"),
        ("001.mp4", "../m1/001.mp4", "by file name alone"),
        ("m1/001.mp4", "M1/001.MP4", "ignoring case"),
        ("m1/001.mp4", "m1/001", "ignoring case and the file's ending"),
        ("001.ome.tif", "m1/001.avi", "by file name alone, ignoring case and the"),
    ],
)
def test_how_names_are_paired_is_said(ours, theirs, how):
    pairs = names.pair([ours], [theirs])
    assert pairs.partners == [0]
    assert [words.startswith(how or "") for words in pairs.loose] == [True] * (how is not None)


def test_of_several_that_fit_none_is_taken():
    pairs = names.pair(["m1/001.mp4", "m2/001.mp4", "m1/002.mp4"], ["001.mp4", "002.mp4"])
    assert pairs.partners == [-1, -1, 1]
    assert pairs.ambiguous == [0, 1]
    assert names.pair(["a.mp4", "a.avi"], ["a"]).partners == [-1, -1]
    assert names.pair(["a.mp4"], ["A.mp4", "a.MP4"]).partners == [-1]
    # Equal names go first, and are then no longer in question.
    assert names.pair(["x/1.mp4", "1.mp4"], ["1.mp4", "y/x/1.mp4"]).partners == [1, 0]


def test_names_without_any_in_common_are_shown():
    shown = names.contrast(["m1/001.mp4 ", "m1/002.mp4"], ["m9/003.mp4", "m9\\002.mp4"])
    assert "'m1/001.mp4 '" in shown
    assert "'m1/002.mp4' and 'm9\\\\002.mp4'" in shown
    assert "'a.mp4' and 'b.mp4'" in names.contrast(["a.mp4"], ["b.mp4"])
    assert "several" in names.contrast(["m1/a.mp4", "m2/a.mp4"], ["a.mp4"])
    for other in ("a.tif/7", "a.tif/7-00ff"):
        assert "places" in names.contrast(["a.tif/6-1f3a", "a.tif/7-1f3a"], [other])


def test_endings_that_are_read_are_endings():
    assert all(names.SUFFIXES.search(f"a{suffix}") for suffix in find.SUFFIXES)


@pytest.mark.slow
def test_a_million_names_take_seconds():
    ours = [f"m{row % 997}/field {row % 13}/{row}.mp4" for row in range(573_048)]
    theirs = [f"D:\\study\\{name}".replace("/", "\\") for name in reversed(ours)]
    started = time.process_time()
    assert names.pair(ours, theirs).partners == list(reversed(range(len(ours))))
    assert time.process_time() - started < 30
