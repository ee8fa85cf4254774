"""Every reader against mutated files: a few in the fast suite, more in the slow one.

`tests.fuzz.run` does the same for hours, and catches crashes and hangs of the process, too.
"""

import contextlib
import random
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stallscan.errors import StallscanError
from tests.fuzz import mutate
from tests.fuzz.readers import READERS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What each reader needs and its valid files, made when it is first asked for."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, list(READERS[name].seeds(folder))
        return made[name]

    return of


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(folders, name):
    folder, corpus = folders(name)
    for data in corpus:
        READERS[name].read(data, folder)


def _fuzz(folders, name, examples):
    reader = READERS[name]
    folder, corpus = folders(name)

    # The same numbers in each run: a file of the largest size allowed takes seconds.
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def check(seed):
        rng = random.Random(seed)
        data = mutate.mutate(rng.choice(corpus), reader.kind, rng, corpus)
        with contextlib.suppress(StallscanError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(data, folder)

    check()


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(folders, name):
    _fuzz(folders, name, examples=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files_are_read_or_refused(folders, name):
    _fuzz(folders, name, examples=400)
