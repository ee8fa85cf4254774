"""The command line: one command, one call, and what it prints.

Heavy modules are imported inside the commands, so that help answers at once.
"""

import contextlib
import errno
import io
import logging
import os
import sys
from pathlib import Path

from cyclopts import CycloptsError

# Imported for the commands that they define.
from stallscan.cli import calling, data, measuring, training  # noqa: F401
from stallscan.cli.terminal import (
    EXIT_CLOSED_PIPE,
    EXIT_FAILED_ROWS,
    EXIT_INTERRUPTED,
    Out,
    app,
    print_line,
    say,
    show,
    show_progress,
)
from stallscan.errors import EngineError, StallscanError, missing

# Commands that go on where an interrupted run was.
RESUMABLE = ("simulate", "prepare", "train", "reproduce", "predict", "demo")
# What to do about an error of the system that nothing else has put into words.
ADVICE = {
    errno.ENOSPC: "Make room and start the same command again",
    errno.EDQUOT: "Make room and start the same command again",
    errno.EACCES: "Change its permissions, or choose another one",
    errno.EPERM: "Change its permissions, or choose another one",
    errno.EROFS: "Choose a folder that can be written, with -o",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: "Name a file, not a folder",
    errno.ENOTDIR: "Name a folder, not a file",
    errno.ENOENT: "See that it exists",
    errno.EMFILE: "Allow more open files (ulimit -n), or use fewer --processes",
}
ADVICE_ELSE = "See that the file and its folder can be read and written"


@app.command
def demo(*, out: Out = Path("stallscan-demo")) -> None:
    """Show the whole way on simulated recordings: simulate, predict, evaluate, report.

    Parameters
    ----------
    out
        Folder for all that is made.
    """
    from stallscan.cli import demo
    from stallscan.evaluation import present

    with contextlib.ExitStack() as stack:
        made = demo.run(out, lambda name: stack.enter_context(show_progress(name)))
    show(present.as_table(made.evaluation))
    print_line(f"All recordings are simulated. Open the report: {made.report.resolve()}")


@app.command
def doctor() -> None:
    """Say what is installed, what works, and what is missing with the way to get it."""
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


def main() -> None:
    """Run the command line; errors that are raised on purpose end in one sentence, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A console that has no character for a name shows its code; the run goes on.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="stallscan: %(message)s", stream=sys.stderr)
    logging.getLogger("stallscan").setLevel(logging.INFO)
    try:
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        # Cyclopts has said what is wrong; its own exit code would be 1.
        sys.exit(StallscanError.exit_code)
    except EngineError as error:
        say(f"error: {error}")
        _end_now(error.exit_code)
    except StallscanError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (sentence := missing(error)) is None:
            raise
        say(f"error: {sentence}")
        sys.exit(StallscanError.exit_code)
    except BrokenPipeError:
        # Whoever reads the output wants no more of it. Python flushes again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CLOSED_PIPE)
    except OSError as error:
        say(f"error: {_sentence(error)}")
        sys.exit(StallscanError.exit_code)
    except KeyboardInterrupt:
        resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
        say(f"interrupted{'; run the same command again to resume' if resumes else ''}")
        _end_now(EXIT_INTERRUPTED)


def _end_now(code: int) -> None:
    """Exit without waiting for threads, of which some may hang in native code."""
    # A console that is gone must not keep this process from ending.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _sentence(error: OSError) -> str:
    """Say which file, what is wrong with it and what to do."""
    # Of a replacement the second one is what the user named; the first is a temporary file.
    file = error.filename if error.filename2 is None else error.filename2
    name = "" if file is None else f"{file}: "
    reason = error.strerror or str(error) or type(error).__name__
    return f"{name}{reason}. {ADVICE.get(error.errno or 0, ADVICE_ELSE)}"


if __name__ == "__main__":
    main()
