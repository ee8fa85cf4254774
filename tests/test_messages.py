"""What users are told, in one file, so that a change of wording is seen and read."""

from tests.messages import GOLDEN, collect


def test_the_file_of_all_messages_is_up_to_date():
    assert collect() == GOLDEN.read_text("utf-8"), (
        "write it again with 'make references', and read what changed"
    )
