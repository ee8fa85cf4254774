import pandas as pd
import pytest

from stallscan.catalog.tables import read_labels
from stallscan.errors import InputError
from stallscan.review.answers import Answers
from stallscan.review.labels import read_corrections, write_labels

GIVEN = [
    ("a.mp4", "ann", "stalled"),
    ("a.mp4", "bob", "stalled"),
    ("a.mp4", "eve", "flowing"),
    ("b.mp4", "ann", "flowing"),
    ("b.mp4", "eve", "stalled"),
    ("c.mp4", "ann", "unsure"),
    ("d.mp4", "bob", "flowing"),
    ("d.mp4", "eve", "broken"),
]


@pytest.fixture
def folder(tmp_path):
    answers = Answers(tmp_path)
    for number, (filename, reviewer, answer) in enumerate(GIVEN):
        answers.give(f"token-{number:02}", filename, reviewer, answer)
    return tmp_path


def test_two_mice_of_a_recording_are_refused(folder, tmp_path):
    table = tmp_path / "mice.csv"
    table.write_text("filename,mouse\na.mp4,m1\na.mp4,m2\nb.mp4,m1\nd.mp4,m1\n")
    with pytest.raises(InputError, match=r"mice\.csv: filename is repeated .*a\.mp4"):
        write_labels(folder, tmp_path / "labels.csv", mice=table)


@pytest.mark.parametrize(
    ("rule", "experts", "expected"),
    [
        ("majority", (), {"a.mp4": 1}),
        ("latest", (), {"a.mp4": 0, "b.mp4": 1}),
        ("expert", ("eve",), {"a.mp4": 0, "b.mp4": 1}),
        ("expert", ("bob",), {"a.mp4": 1, "d.mp4": 0}),
        ("expert", ("Bob ",), {"a.mp4": 1, "d.mp4": 0}),
    ],
)
def test_each_rule_gives_its_labels(folder, rule, experts, expected):
    written = write_labels(folder, folder / "labels.csv", rule, experts)
    labels = read_labels(folder / "labels.csv").set_index("filename")["stalled"]
    assert labels.to_dict() == expected
    assert (written.labelled, written.stalled) == (len(expected), sum(expected.values()))
    assert written.labelled + written.undecided == 4


def test_an_expert_who_cannot_score_a_recording_is_not_outvoted(tmp_path):
    answers = Answers(tmp_path)
    given = [("eve", "unscorable"), ("ann", "flowing"), ("bob", "flowing"), ("eve", "flowing")]
    for number, (reviewer, answer) in enumerate(given):
        answers.give(f"token-{number:02}", f"{number // 3}.mp4", reviewer, answer)
    written = write_labels(tmp_path, tmp_path / "labels.csv", "expert", ("eve",))
    assert (written.labelled, written.undecided) == (1, 1)
    assert read_labels(tmp_path / "labels.csv")["filename"].tolist() == ["1.mp4"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.mp4,\nb.mp4,m1\nd.mp4,m1", r"line 2 \(a\.mp4\)"),
        ("a.mp4,M1\nb.mp4,M01\nd.mp4,m2", "'M1' .* 'M01'"),
        ("a.mp4,m1,x\nb.mp4,m1\nd.mp4,m1", r"line 2 \(a\.mp4\)"),
    ],
)
def test_mice_are_checked_in_the_table_that_names_them(folder, tmp_path, rows, said):
    table = tmp_path / "mice.csv"
    table.write_text(f"filename,mouse\n{rows}\n")
    with pytest.raises(InputError, match=rf"mice\.csv: .*{said}"):
        write_labels(folder, tmp_path / "labels.csv", mice=table)


def test_votes_and_reviewers_stand_beside_the_label(folder):
    write_labels(folder, folder / "labels.csv")
    row = pd.read_csv(folder / "labels.csv").set_index("filename").loc["a.mp4"]
    assert (row["stalled_votes"], row["flowing_votes"]) == (2, 1)
    assert row["reviewers"] == "ann; bob; eve"
    assert row["rule"] == "majority"


@pytest.mark.parametrize(("experts", "message"), [((), "--expert"), (("zoe",), "ann, bob, eve")])
def test_unknown_experts_are_refused(folder, experts, message):
    with pytest.raises(InputError, match=message):
        write_labels(folder, folder / "labels.csv", "expert", experts)


def test_a_folder_without_answers_or_labels_is_refused(tmp_path):
    with pytest.raises(InputError, match="stallscan review"):
        write_labels(tmp_path, tmp_path / "labels.csv")
    Answers(tmp_path).give("token-01", "a.mp4", "ann", "unsure")
    with pytest.raises(InputError, match="no recording has a label"):
        write_labels(tmp_path, tmp_path / "labels.csv")
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s", "stalled"),
        ("f", "flowing"),
        ("x", "unscorable"),
        ("xb", "unscorable"),  # cannot be scored, and broken: the same for a call
        ("sxb", "unscorable"),
        ("su", "stalled"),  # whoever is unsure says nothing
        ("ssf", "stalled"),
        ("u", None),
        ("sf", None),
        ("sx", None),
        ("ssffx", None),
    ],
)
def test_corrections_are_by_majority(tmp_path, given, expected):
    words = {"s": "stalled", "f": "flowing", "u": "unsure", "x": "unscorable", "b": "broken"}
    answers = Answers(tmp_path)
    for number, letter in enumerate(given):
        answers.give(f"token-{number:02}", "a.mp4", f"reviewer {number}", words[letter])
    assert read_corrections(tmp_path).get("a.mp4") == expected


def test_a_folder_without_answers_has_no_corrections(tmp_path):
    assert read_corrections(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["review.sqlite", "notes.csv", "predictions.csv"])
def test_no_other_file_is_overwritten(folder, name):
    if name != "review.sqlite":
        (folder / name).write_text("filename,score\na.mp4,0.5\n")
    before = (folder / name).read_bytes()
    with pytest.raises(InputError, match="already exists"):
        write_labels(folder, folder / name)
    assert (folder / name).read_bytes() == before
    write_labels(folder, folder / "labels.csv")
    write_labels(folder, folder / "labels.csv")  # our own may be written again
