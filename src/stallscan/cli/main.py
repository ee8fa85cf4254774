"""The entry point: runs a command, and ends every error and Ctrl-C in one sentence.

It imports next to nothing at first: Ctrl-C is answered before the commands are imported.
"""

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
# Commands that resume an interrupted run.
RESUMABLE = ("simulate", "prepare", "train", "fine-tune", "reproduce", "predict", "demo")
# Options for which an empty word means something.
EMPTY_OPTIONS = ("--group",)


def main() -> None:
    """Run the command line; errors that are raised on purpose end in one sentence, no traceback."""
    interrupts = _Interrupts()
    try:
        _run(interrupts)
    except KeyboardInterrupt:
        _end_interrupted()


class _Interrupts:
    """Ctrl-C: the first one lets a command at work clean up, any other ends the process at once."""

    def __init__(self) -> None:
        self._is_at_work = False
        self._happened = False
        self._process = os.getpid()
        # Not where it is ignored (nohup, a script's background job), a caller handles it, or (a
        # ValueError) this is not the main thread.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, self._handle)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Raise KeyboardInterrupt after Ctrl-C, whatever a library makes of it inside.

        One that is being imported may raise another error instead; Lightning's trainer exits.
        """
        self._is_at_work = True
        try:
            yield
        except BaseException:
            if self._happened:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._is_at_work = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._process and (self._happened or not self._is_at_work):
            _end_interrupted()
        self._happened = True
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
        # A console that has no character for a name shows its code; the run goes on.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="stallscan: %(message)s", stream=sys.stderr)
    logging.getLogger("stallscan").setLevel(logging.INFO)
    words = sys.argv[1:]
    if words[:2] == ["train", "fine-tune"]:
        say("'stallscan train fine-tune' is now called 'stallscan fine-tune'")
        del words[0]
    try:
        _refuse_empty(words)
        with interrupts.at_work():
            app(words, exit_on_error=False)
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
        # Of a replacement the second one is what the user named; the first is a temporary file.
        file = error.filename if error.filename2 is None else error.filename2
        say(f"error: {'' if file is None else f'{file}: '}{explain(error)}")
        sys.exit(StallscanError.exit_code)


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty word: as a path, such as a variable that is not set, it is this folder."""
    from stallscan.errors import InputError

    for before, word in itertools.pairwise(("stallscan", *words)):
        if not word and before not in EMPTY_OPTIONS:
            raise InputError(
                f"after {before}: an empty word. Name a file or folder; the current folder is ."
            )


def _end_interrupted() -> None:
    resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
    rest = "resume" if resumes else "start over"
    # Not through a stream: the signal may have come while it was being written to.
    os.write(2, f"stallscan: interrupted; run the same command again to {rest}\n".encode())
    _end_now(EXIT_INTERRUPTED)


def _end_now(code: int) -> None:
    """Exit without waiting for threads, of which some may hang in native code."""
    # A console that is gone must not keep this process from ending.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
