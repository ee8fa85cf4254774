"""Ctrl-C and SIGTERM while modules are imported: no traceback, and at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")

TRAIN = ("train", "default", "--data", "data", "-o", "out")
# Tables are checked before torch is imported.
TABLES = {
    "train_metadata.csv": "filename,project_id,crowd_score,tier1,micro,nano\n"
    "0.mp4,M1,0.0,True,True,True\n1.mp4,M1,1.0,True,True,True\n",
    "train_labels.csv": "filename,stalled\n0.mp4,0\n1.mp4,1\n",
}


def interrupt(words, module, cwd, number):
    """Send a signal to a command once it has imported a module; return (code, stderr, delay)."""
    command = [sys.executable, "-X", "importtime", "-m", "stallscan", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    said, sent_s = [], None
    with subprocess.Popen(command, **pipes, cwd=cwd, start_new_session=True) as process:
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif sent_s is None and line.rpartition("|")[2].strip() == module:
                os.killpg(process.pid, number)
                sent_s = time.monotonic()
    assert sent_s is not None, f"{module} was not imported"
    return process.returncode, "".join(said), time.monotonic() - sent_s


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM")],
)
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
def test_an_interrupted_import_ends_at_once_with_a_message(
    tmp_path, words, module, rest, number, code, what
):
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name, content in TABLES.items():
        (tmp_path / "data" / name).write_text(content)
    ended, said, took_s = interrupt(words, module, tmp_path, number)
    assert ended == code
    # Before it, `train` says what it understood of the labels.
    assert said.count("\n") == 1 + ("2 labels" in said)
    assert "Traceback" not in said
    assert what in said.splitlines()[-1]
    assert rest in said.splitlines()[-1]
    assert took_s < 5
