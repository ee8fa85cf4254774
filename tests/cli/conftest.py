import signal

import pytest


@pytest.fixture(autouse=True)
def _interrupts():
    """Restore the signal handlers that `main` replaces."""
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
