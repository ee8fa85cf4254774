import os
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, signal, time
from stallscan import workers

if __name__ == "__main__":
    pool = workers.pool(2)
    print(*{future.result() for future in [pool.submit(os.getpid) for _ in range(8)]}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT)
    # Not through a pipe: it would stay open, and this wait, for as long as a worker lives.
    with (tmp_path / "pids").open("w+") as out:
        subprocess.run([sys.executable, script], stdout=out, check=False, timeout=60)
        out.seek(0)
        pids = [int(pid) for pid in out.read().split()]
    assert pids
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))
