"""All commands. This module defines demo and doctor; importing the others registers them.

Commands import heavy modules in their bodies, so that --help is fast.
"""

import contextlib
import sys
from pathlib import Path

# Imported to register their commands.
from stallscan.cli import (  # noqa: F401
    calling,
    data,
    measuring,
    review,
    scaling,
    segmenting,
    stacks,
    training,
)
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
    """Simulate recordings, then predict, evaluate and report: the whole workflow.

    Example: stallscan demo -o stallscan-demo

    Parameters
    ----------
    out
        Output folder.
    """
    from stallscan.cli import demo
    from stallscan.evaluation import present

    with contextlib.ExitStack() as stack:
        demonstration = demo.run(out, lambda name: stack.enter_context(show_progress(name)))
    print_line(present.headline(demonstration.evaluation))
    show(*present.tables(demonstration.evaluation, every=False))
    print_line(f"All recordings are simulated. Open the report: {demonstration.report.resolve()}")


@command
def doctor() -> None:
    """Check the installation, and show the commands that install missing libraries.

    Example: stallscan doctor
    """
    from rich.table import Table
    from rich.text import Text

    from stallscan.cli import doctor

    findings = doctor.examine()
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    table = Table("component", "state", "details")
    for finding in findings:
        state = Text(finding.state, colours[finding.state])
        table.add_row(finding.what, state, finding.found)
    show(table)
    if missing := [finding.what for finding in findings if finding.state == "missing"]:
        print_line(
            f"Missing: {', '.join(missing)}. Do what the table says, then run 'stallscan doctor' "
            "again."
        )
        sys.exit(EXIT_FAILED_ROWS)
    print_line(
        "All that prediction needs is there. Try 'stallscan demo', or call recordings of your own: "
        "stallscan predict my_recordings/ -o results"
    )
