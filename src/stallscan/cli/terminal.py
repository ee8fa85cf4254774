"""Shared by all commands: options, messages, tables, progress."""

import contextlib
import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Group, Parameter

from stallscan.words import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


log = logging.getLogger("stallscan")


def version() -> str:
    """Return what --version prints: the version and, in a checkout, the git commit."""
    from stallscan import __version__
    from stallscan.files import git_commit

    commit = git_commit(limit_s=0.3)
    return f"{__version__} ({commit})" if commit else __version__


# The groups of commands in the help, with the commands of each in the order of their use.
GROUPS = {
    "Start": ("demo", "doctor"),
    "Call": ("predict", "stack", "segment", "decide", "explain", "plan", "run", "status", "merge"),
    "Measure": ("review", "labels", "evaluate", "rate", "report", "methods"),
    "Train": (
        *("train", "recipe", "fine-tune", "improve", "ensemble", "export", "import-weights"),
        "reproduce",
    ),
    "Data": ("simulate", "select", "fetch", "prepare"),
}

app = App(
    name="stallscan",
    version=version,
    help=(
        "Detects stalled capillaries in two-photon recordings.\n\n"
        "-q after any command: only results, warnings and errors, without progress."
    ),
    group_commands=Group("Options", sort_key=len(GROUPS)),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    # No --no-... options for flags and no --empty-... options for lists.
    default_parameter=Parameter(negative=()),
)
app.register_install_completion_command(
    help="Install completion of commands and options for your shell, and exit."
)
# 0 done, 1 done but some rows failed (with --strict), 2 bad input or settings, 3 bad bundle. The
# codes for signals are in main.py.
EXIT_FAILED_ROWS = 1
# Print the calls of single recordings if there are at most this many.
FEW_SHOWN = 10
# Print the rows of at most this many recordings; more go into a table.
MOST_SHOWN = 50
Command = TypeVar("Command", bound=Callable[..., Any])
PLACES = {
    name: (group, place)
    for number, (title, names) in enumerate(GROUPS.items())
    for group in [Group(title, sort_key=number)]
    for place, name in enumerate(names)
}
Out = Annotated[Path, Parameter(name=["--out", "-o"])]


class With:
    """Mark an option that has no effect unless another one is given, so that alone it is refused.

    Each partner suffices. One is written as a user types it: ``--known``, or ``--rule limits``
    for an option that must have this value.
    """

    def __init__(self, *partners: str) -> None:
        self.partners = partners


def command(function: Command) -> Command:
    """Register a function as a command, with each wrapped description joined into one line.

    Arguments before the options are positional only, so that the help names each of them once.
    """
    lines = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = re.sub(
        r"^    \S.*(\n    \S.*)+",
        lambda match: "    " + " ".join(match[0].split()),
        lines,
        flags=re.MULTILINE,
    )
    signature = inspect.signature(function)
    positional = {parameter.POSITIONAL_OR_KEYWORD for parameter in signature.parameters.values()}
    parameters = [
        parameter.replace(kind=parameter.POSITIONAL_ONLY)
        if parameter.kind in positional
        else parameter
        for parameter in signature.parameters.values()
    ]
    options = {option_of(parameter): parameter for parameter in parameters}
    name = function.__name__.replace("_", "-")
    group, place = PLACES.get(name, ("Commands", 0))

    @functools.wraps(function)
    def act(*arguments: Any, **given: Any) -> Any:
        _refuse_alone(options, given)
        return function(*arguments, **given)

    act.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    app.command(act, name=name, group=group, sort_key=place)
    return function


def option_of(parameter: inspect.Parameter) -> str:
    """Return an option as a user types it."""
    for mark in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(mark, Parameter) and mark.name:
            return str(next(iter(mark.name)))
    return "--" + parameter.name.strip("_").replace("_", "-")


def _refuse_alone(options: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Raise InputError if an option is given without any of the partners that `With` names."""
    from stallscan.errors import InputError

    def has(partner: str) -> bool:
        name, _, value = partner.partition(" ")
        found = given.get(options[name].name)
        return str(found) == value if value else bool(found)

    for option, parameter in options.items():
        for mark in getattr(parameter.annotation, "__metadata__", ()):
            if (
                isinstance(mark, With)
                and parameter.name in given
                and not any(map(has, mark.partners))
            ):
                partners = " or ".join(mark.partners)
                raise InputError(
                    f"{option} has no effect without {partners}. Add {partners}, or leave out "
                    f"{option}"
                )


def print_calls(table: Path) -> None:
    """Print the calls of a table of predictions with the remarks on them, one per line."""
    import csv

    from stallscan.words import without_path

    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            score = f" (score {row['score']})" if row["score"] else ""
            remark = without_path(row["reason"], row["filename"])
            print_line(f"{row['filename']}: {row['call']}{score}{remark and f'. {remark}'}")


def predictions_in(given: Path) -> Path:
    """Return the path of a table of predictions, given as a file or as its folder."""
    return given / "predictions.csv" if given.is_dir() else given


def read_answers(predictions: Path) -> dict[str, str]:
    """Return the calls corrected in a review of the folder of a table, by filename.

    Calls that 'decide' made were reviewed there, or in a folder that they were decided from. Only
    answers to the files that were called count.
    """
    from stallscan.calls.predictions import decided_from, read_run
    from stallscan.report.sources import read_stamps
    from stallscan.review.labels import read_corrections

    earlier = decided_from(predictions, read_run(predictions))
    for table in earlier:
        if not table.parent.is_dir():
            log.warning(
                "%s: was decided from %s, which is gone, so answers of a review there are not "
                "used. Put its folder back, or move both folders together",
                predictions,
                table,
            )
    answers: dict[str, str] = {}
    stamps = read_stamps(predictions)
    for table in (*earlier, predictions):
        answers |= read_corrections(table.parent, stamps)
    return answers


def trust_nets(bundle: str) -> None:
    """Import the custom nets of a bundle; call it only if the user passed --trust."""
    from stallscan.bundle import disk, net

    net.trust(disk.load_any(bundle))


def print_line(text: str) -> None:
    """Print a line of output to stdout."""
    # Flush, so that a closed pipe raises BrokenPipeError here, where `main` handles it.
    sys.stdout.write(printable(text, keep="\n") + "\n")
    sys.stdout.flush()


def show(*tables: "Table") -> None:
    """Print tables."""
    for table in tables:
        console().print(table)


def console(stderr: bool = False) -> "Console":
    """Return a console that prints ``[red]`` and ``:cat:`` literally, not as markup."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Plain(stderr=stderr, markup=False, emoji=False)


def say(text: str) -> None:
    """Write a message to stderr."""
    text = printable(text, keep="\n")
    sys.stderr.write(f"stallscan: {text}\n")


@contextlib.contextmanager
def say_once() -> Iterator[None]:
    """Leave out messages of the log that were logged before.

    The same labels are matched with two tables of predictions, for example.
    """
    said = set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in said
        said.add(message)
        return not is_known

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


@contextlib.contextmanager
def show_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar with the time left on stderr, from the first report of progress on.

    So nothing is shown while inputs are checked, nor with -q.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    is_quiet = not logging.getLogger("stallscan").isEnabledFor(logging.INFO)
    bar = Progress(*columns, console=console(stderr=True), disable=is_quiet)
    task = bar.add_task(name, total=None)
    has_ended = False

    def update(done: int, of: int) -> None:
        nonlocal has_ended
        if not has_ended:
            bar.start()
        bar.update(task, completed=done, total=of)
        if done >= of:
            # The next stage may show its own bar (training does).
            stop()
            has_ended = True

    def stop() -> None:
        if bar.live.is_started:  # otherwise it would write an empty line
            bar.stop()

    try:
        yield update
    finally:
        stop()
