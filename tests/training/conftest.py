"""What all tests of training share."""

import pytest

from stallscan import workers


@pytest.fixture(scope="module", autouse=True)
def _no_processes():
    """Decode in this process: starting another takes as long as a small training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "count", lambda _: 0)
        yield
