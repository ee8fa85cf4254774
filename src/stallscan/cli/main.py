"""The entry point: runs a command, and turns errors and signals into one-line messages.

It imports as little as possible at first, so that Ctrl-C works while the commands are imported.
"""

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

# Signals that end a command, and what the message says of them. Its exit code is that of a shell,
# 128 and the number of the signal: 130, 143.
ENDS = {
    signal.SIGINT: "interrupted",  # Ctrl-C
    signal.SIGTERM: "told to end (SIGTERM)",  # a scheduler's time limit, docker stop, a shutdown
}
EXIT_CLOSED_PIPE = 141
# Commands that resume an interrupted run.
RESUMABLE = (
    "simulate",
    "fetch",
    "prepare",
    "train",
    "fine-tune",
    "improve",
    "reproduce",
    "predict",
    "stack",
    "run",
    "demo",
    "segment",
)
# Options of all commands that leave out progress and what is only good to know.
QUIET = frozenset({"-q", "--quiet"})
# Options that accept an empty value.
EMPTY_OPTIONS = ("--group",)


def main() -> None:
    """Run the command line. A `StallscanError` ends it with a one-line message, no traceback."""
    interrupts = _Interrupts()
    try:
        _run(interrupts)
    except KeyboardInterrupt:
        _end_interrupted(interrupts.number or signal.SIGINT)


class _Interrupts:
    """Ctrl-C and SIGTERM: the first lets a running command clean up, the next ends the process.

    Attributes
    ----------
    number : Signals or None
        The last signal that arrived.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._is_at_work = False
        self._process = os.getpid()
        for number in ENDS:
            # Leave a signal alone if it is ignored (nohup, a script's background job) or a caller
            # handles it. Outside the main thread signal.signal raises ValueError.
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                with contextlib.suppress(ValueError):
                    signal.signal(number, self._handle)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Raise KeyboardInterrupt after a signal, even if a library turns it into something else.

        A library that is being imported may raise another error; Lightning's trainer exits.
        """
        self._is_at_work = True
        try:
            yield
        except BaseException:
            if self.number is not None:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._is_at_work = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        before, self.number = self.number, signal.Signals(number)
        if os.getpid() == self._process and (before is not None or not self._is_at_work):
            _end_interrupted(self.number)
        raise KeyboardInterrupt


def _run(interrupts: _Interrupts) -> None:
    import io
    import logging

    from cyclopts import CycloptsError

    from stallscan.cli.commands import app
    from stallscan.cli.terminal import say
    from stallscan.errors import EngineError, StallscanError, missing
    from stallscan.files import explain

    for stream in (sys.stdout, sys.stderr):
        # Escape characters that the console cannot show instead of failing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="stallscan: %(message)s", stream=sys.stderr)
    logging.getLogger("stallscan").setLevel(logging.INFO)
    words = sys.argv[1:]
    if QUIET.intersection(words):
        words = [word for word in words if word not in QUIET]
        logging.getLogger("stallscan").setLevel(logging.WARNING)
    if words[:2] == ["train", "fine-tune"]:
        say("'stallscan train fine-tune' is now 'stallscan fine-tune'")
        del words[0]
    try:
        _refuse_empty(words)
        with interrupts.at_work():
            app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from stallscan.cli.usage import explain as explain_usage

        say(f"error: {explain_usage(error)}")
        sys.exit(StallscanError.exit_code)
    except EngineError as error:
        say(f"error: {error}")
        _end_now(error.exit_code)
    except StallscanError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (message := missing(error)) is None:
            raise
        say(f"error: {message}")
        sys.exit(StallscanError.exit_code)
    except BrokenPipeError:
        # The reader has closed the pipe. Python flushes stdout again at exit: redirect it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CLOSED_PIPE)
    except OSError as error:
        # os.replace reports two names: a temporary file, and the one that the user knows.
        file = error.filename if error.filename2 is None else error.filename2
        say(f"error: {'' if file is None else f'{file}: '}{explain(error)}")
        sys.exit(StallscanError.exit_code)


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse empty arguments (an unset shell variable): as a path they mean the current folder."""
    from stallscan.errors import InputError

    for before, word in itertools.pairwise(("stallscan", *words)):
        if not word and before not in EMPTY_OPTIONS:
            raise InputError(
                f"empty argument after {before}. Name a file or folder (. is the current folder)"
            )


def _end_interrupted(number: signal.Signals) -> None:
    resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
    rest = "resume" if resumes else "start over"
    # Bypass the stream: the signal may have interrupted a write to it.
    os.write(2, f"stallscan: {ENDS[number]}. Run the same command again to {rest}\n".encode())
    _end_now(128 + number)


def _end_now(code: int) -> None:
    """Exit without waiting for threads, some of which may hang in native code."""
    # Flushing fails if the console is gone; exit anyway.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
