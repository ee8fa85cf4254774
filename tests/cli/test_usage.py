"""A command line that cannot be parsed ends in a sentence: which option, and what it takes."""

import pytest

CASES = [
    ("rate results -o x", "--groups is missing", "filename"),
    ("fine-tune films -o x", "--labels is missing", "CSV"),
    ("decide results", "--out is missing", "Folder"),
    ("decide results -o", "-o needs a value", "Folder"),
    ("decide results -o x --prevalence bundle", "--prevalence cannot be 'bundle'", "estimate"),
    ("decide results -o x --prevalence bundle", "--prevalence cannot be 'bundle'", "a number"),
    ("stack a.tif -o x --signal loud", "--signal cannot be 'loud'", "pattern or brightness"),
    ("stack a.tif -o x --voxel-um 1 2", "--voxel-um needs 3 values, not 2", "planes"),
    ("stack a.tif -o x --voxel-um 1 2 z", "--voxel-um cannot be 'z'", "numbers"),
    ("predcit films -o x", "predict", "Unknown command"),
    ("predict films -o x --foo 1", "--foo", "Unknown option"),
]


@pytest.mark.parametrize(("words", "wrong", "remedy"), CASES, ids=[case[0] for case in CASES])
def test_a_line_that_cannot_be_parsed_says_what_to_give(run, words, wrong, remedy):
    code, printed, said = run(*words.split())
    assert (code, printed) == (2, "")
    assert said.count("\n") == 1
    assert said.startswith("stallscan: error: ")
    assert wrong in said
    assert remedy in said
    assert "Literal" not in said
