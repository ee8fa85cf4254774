"""All commands; here those that show whether stallscan works: demo, doctor.

Heavy modules are imported inside the commands, so that help answers at once.
"""

import contextlib
import sys
from pathlib import Path

# Imported for the commands that they define.
from stallscan.cli import calling, data, measuring, training  # noqa: F401
from stallscan.cli.terminal import (
    EXIT_FAILED_ROWS,
    Out,
    app,
    command,
    print_line,
    show,
    show_progress,
)

__all__ = ["app"]


@command
def demo(*, out: Out = Path("stallscan-demo")) -> None:
    """Simulate recordings, predict, evaluate and report: everything end to end.

    Example: stallscan demo -o stallscan-demo

    Parameters
    ----------
    out
        Folder for all output.
    """
    from stallscan.cli import demo
    from stallscan.evaluation import present

    with contextlib.ExitStack() as stack:
        made = demo.run(out, lambda name: stack.enter_context(show_progress(name)))
    show(present.as_table(made.evaluation))
    print_line(f"All recordings are simulated. Open the report: {made.report.resolve()}")


@command
def doctor() -> None:
    """Check what is installed and works, and name the command that installs what is missing.

    Example: stallscan doctor
    """
    from rich.table import Table
    from rich.text import Text

    from stallscan.cli import doctor

    findings = doctor.examine()
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    table = Table("what", "state", "found")
    for finding in findings:
        state = Text(finding.state, colours[finding.state])
        table.add_row(finding.what, state, finding.found)
    show(table)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(EXIT_FAILED_ROWS)
