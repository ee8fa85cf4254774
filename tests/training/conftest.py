"""What all tests of training share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_processes(no_processes):
    """Decode in this process: starting another takes as long as a small training."""
