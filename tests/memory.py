"""Measuring the peak memory of a script in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

# Not resource.getrusage: its peak counts the process that started this one, too.
_MEASURE = """
from pathlib import Path
line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
print(int(line.split()[1]) * 1024)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def peak_bytes(script: str, *args: object) -> int:
    """Run `script` with arguments, and give its peak memory."""
    words = [sys.executable, "-c", script + _MEASURE, *map(str, args)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])
