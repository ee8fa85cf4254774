import signal

import pytest


@pytest.fixture(autouse=True)
def _interrupts():
    """Restore the SIGINT handler that `main` replaces."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
