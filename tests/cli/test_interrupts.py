"""Ctrl-C while modules are imported: no traceback, and at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")

TRAIN = ("train", "default", "--data", "nothing", "-o", "out")


def interrupt(words, module, cwd):
    """Send SIGINT to a command once it has imported a module; return (code, stderr, delay)."""
    command = [sys.executable, "-X", "importtime", "-m", "stallscan", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    said, sent_s = [], None
    with subprocess.Popen(command, **pipes, cwd=cwd, start_new_session=True) as process:
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif sent_s is None and line.rpartition("|")[2].strip() == module:
                os.killpg(process.pid, signal.SIGINT)
                sent_s = time.monotonic()
    assert sent_s is not None, f"{module} was not imported"
    return process.returncode, "".join(said), time.monotonic() - sent_s


@pytest.mark.parametrize(
    ("words", "module", "rest"),
    [
        # The commands themselves, then what a command needs.
        (["predict", ".", "-o", "out"], "cyclopts.exceptions", "resume"),
        (["predict", ".", "-o", "out"], "stallscan.cli.terminal", "resume"),
        (["doctor"], "stallscan.cli.calling", "start over"),
        (["predict", ".", "-o", "out"], "numpy._core.records", "resume"),
        (["report", ".", "-o", "out.html"], "pandas._libs", "start over"),
        pytest.param(TRAIN, "torch._C", "resume", marks=pytest.mark.slow),
        pytest.param(TRAIN, "torchmetrics.utilities.exceptions", "resume", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_import_ends_at_once_with_a_message(tmp_path, words, module, rest):
    code, said, took_s = interrupt(words, module, tmp_path)
    assert code == 130
    assert said.count("\n") == 1
    assert rest in said
    assert took_s < 5
