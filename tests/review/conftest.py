"""Recordings, and a server that shows them."""

import pytest

from stallscan.review.answers import Answers
from tests import drawing
from tests.serving import ODD, client_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("recordings")
    for index, name in enumerate(["0.mp4", "1.mp4", ODD]):
        drawing.write(made / name, seed=index, count=7 + index)
    (made / "broken.mp4").write_bytes(b"no video")
    return made


@pytest.fixture
def answers(tmp_path):
    return Answers(tmp_path)


@pytest.fixture
def client(folder, answers):
    return client_of(folder, answers)
