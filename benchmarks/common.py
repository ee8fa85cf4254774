"""What the benchmarks share: progress on stderr, tables in Markdown, what they were made with."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import stallscan
from stallscan import files
from stallscan.scores.metrics import Interval

HERE = Path(__file__).parent
EVERY_S = 5.0  # chosen: a line of progress at most this often


def show_progress(what: str) -> Callable[[int, int], None]:
    """Make a callback that says on stderr how far `what` is, every few seconds."""
    said = time.monotonic()

    def update(done: int, of: int) -> None:
        nonlocal said
        if done == of or time.monotonic() - said > EVERY_S:
            said = time.monotonic()
            say(f"{what}: {done} of {of}")

    return update


def say(text: str) -> None:
    """Write a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table: the first column on the left, the others on the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows]) + "\n"


def show_interval(interval: Interval | None, sign: str = "") -> str:
    """Write an interval for a table; with "+" as `sign`, that of a difference."""
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}" if interval else "-"


def once(path: Path, measure: Callable[[], float]) -> float:
    """Measure once; a call that comes later reads what was measured."""
    if not path.is_file():
        files.make_folder(path.parent)
        files.write_json(path, measure())
    return float(json.loads(path.read_text(encoding="utf-8")))


def publish(path: Path, title: str, lead: str, tables: Sequence[str]) -> None:
    """Print a page of tables and write it, in one atomic step.

    Parameters
    ----------
    path : Path
        The page.
    title, lead : str
        Its heading, and what the tables were measured on.
    tables : sequence of str
        From `markdown`, or paragraphs.
    """
    page = "\n".join([f"# {title}\n", f"{lead}\n", *tables])
    files.write_text(path, page)
    print(page)
    say(f"written: {path}")


def version() -> str:
    """Name the version of stallscan that was measured."""
    return f"stallscan {stallscan.__version__}"


def machine() -> str:
    """Name the processor, without anything that would tell which machine it is."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
