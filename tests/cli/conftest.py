import signal

import pytest


@pytest.fixture(autouse=True)
def _interrupts():
    """`main` handles Ctrl-C until the process ends; here it ends the tests as usual."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
