"""What all tests of engines share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_processes(no_processes):
    """Simulate and decode in this process: starting another takes longer than a few small clips."""
