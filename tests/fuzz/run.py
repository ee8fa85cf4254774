"""Fuzz one reader for some minutes of CPU time, and keep each input that it does not survive.

    python -m tests.fuzz.run READER --minutes 5 --seed 0 --out FOLDER

A reader may refuse a file with an error of stallscan's own. Anything else is a finding: another
exception, a crash of the process, more time or memory than `LIMIT_S` and `LIMIT_BYTES`, or a file
outside of the folder that it was given. The inputs run in a child process, which is replaced where
it ends. With atheris (`stallscan[fuzz]`) the mutations of `mutate` are guided by the coverage
of the Python code, that of tifffile and yaml included; without it they are random. Findings
are written to FOLDER/READER, the counts are added to FOLDER/counts.jsonl.
"""

import argparse
import hashlib
import importlib
import json
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from stallscan.errors import StallscanError

# What an input may take: CPU time, and memory beyond what the process has before it. Inputs have at
# most half a megabyte; the largest frames within the limits take most of the memory.
LIMIT_S, LIMIT_BYTES = 30.0, 2 * 2**30
# A child that allocates more fails to, so that the machine survives. Beyond any sane use.
HARD_BYTES = 8 * 2**30
# Without using the processor at all, for instance because the child waits for a pipe.
STUCK_S = 900.0
POLL_S = 0.5
# Inputs, CPU seconds used by the finished ones, and those of the child when the present one began.
_STATUS = struct.Struct("Qdd")


def main() -> None:
    """Fuzz, or be the child process that does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", help="a key of readers.READERS")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _Child(options.reader, options.out, options.minutes * 60, options.seed).run()
    else:
        print(json.dumps(fuzz(options.reader, options.minutes, options.seed, options.out)))  # noqa: T201


def fuzz(name: str, minutes: float, seed: int, out: Path) -> dict[str, Any]:
    """Run child processes until the CPU time is used up; return the counts."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    begun = {path.name for path in folder.iterdir()}
    total, cpu_s, ended = 0, 0.0, Counter[str]()
    while cpu_s < minutes * 60:
        inputs, used_s, reason = _watch(name, folder, minutes - cpu_s / 60, seed)
        total += inputs
        cpu_s += used_s
        seed += 1000
        if reason:
            ended[reason] += 1
        if reason and not inputs:
            raise SystemExit(f"{name}: the child process ends before its first input ({reason})")
    found = {path.name for path in folder.glob("*.txt")} - begun
    kinds = Counter(name.partition("-")[0] for name in found)
    counts = {"reader": name, "inputs": total, "cpu_s": round(cpu_s), "findings": dict(kinds)}
    with (out / "counts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(counts | {"guided": _has_atheris(), "ended": dict(ended)}) + "\n")
    return counts


def _watch(name: str, folder: Path, minutes: float, seed: int) -> tuple[int, float, str]:
    """Run one child; return its inputs, its CPU time, and why it ended unless it was done."""
    status_path, input_path = folder / "status", folder / "input"
    status_path.write_bytes(bytes(_STATUS.size))
    words = ["-m", "tests.fuzz.run", name, "--child", "--minutes", str(minutes)]
    words += ["--seed", str(seed), "--out", str(folder)]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
    last_s, changed, reason = -1.0, time.monotonic(), ""
    with status_path.open("rb") as status:
        while child.poll() is None:
            time.sleep(POLL_S)
            status.seek(0)
            inputs, _, began_s = _STATUS.unpack(status.read(_STATUS.size))
            now_s = _cpu_s(child.pid)
            if now_s != last_s:
                last_s, changed = now_s, time.monotonic()
            if inputs and now_s - began_s > LIMIT_S:
                reason = "hang"
            elif time.monotonic() - changed > STUCK_S:
                reason = "stuck"
            else:
                continue
            child.kill()
            child.wait()
        status.seek(0)
        inputs, used_s, began_s = _STATUS.unpack(status.read(_STATUS.size))
    for scratch in folder.glob("fuzz-*"):
        shutil.rmtree(scratch)
    if not reason and child.returncode:
        code = child.returncode
        reason = f"crash_{signal.Signals(-code).name if code < 0 else code}"
    if reason:
        log_text = (folder / "log").read_text(errors="replace")[-20_000:]
        _keep(folder, reason, log_text, input_path.read_bytes() if input_path.exists() else b"")
    return inputs, max(used_s, began_s), reason


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keep(folder: Path, kind: str, text: str, data: bytes) -> None:
    """Keep an input, once for each text that does not depend on it."""
    lines = [line for line in text.splitlines() if line.strip().startswith(("File ", "FAULT"))]
    digest = hashlib.sha256("\n".join([kind, *lines[-6:]]).encode()).hexdigest()[:10]
    path = folder / f"{kind}-{digest}.txt"
    if not path.exists():
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        path.with_suffix(".input").write_bytes(data)


class _Child:
    """Runs inputs in this process, and writes down which one is running."""

    def __init__(self, name: str, folder: Path, seconds: float, seed: int) -> None:
        self._folder, self._seconds, self._seed = folder, seconds, seed
        self._reader = _import_readers()[name]
        self._scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=folder))
        self._inside = self._scratch / "inside"
        self._inside.mkdir()
        self._inputs, self._peak = 0, _peak_bytes()
        self._began_s = time.process_time()

    def run(self) -> None:
        """Run inputs until the time is over."""
        logging.disable()
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_DATA, (HARD_BYTES, HARD_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        corpus = self._corpus = list(self._reader.seeds(self._inside))
        for data in corpus:  # all of them are valid
            self._reader.read(data, self._inside)
        file = (self._folder / "status").open("r+b")
        self._status = mmap.mmap(file.fileno(), _STATUS.size)
        self._current = (self._folder / "input").open("w+b", buffering=0)
        self._before = {path.name for path in self._scratch.iterdir()}
        if _has_atheris():
            self._guided(corpus)
        rng = random.Random(self._seed)
        while True:
            self.execute(self._mutate(rng.choice(corpus), rng))

    def _guided(self, corpus: list[bytes]) -> None:
        import atheris

        folder = self._scratch / "corpus"
        folder.mkdir()
        self._before.add("corpus")
        for number, data in enumerate(corpus):
            (folder / str(number)).write_bytes(data)

        def mutator(data: bytes, most: int, seed: int) -> bytes:
            rng = random.Random(seed)
            if rng.random() < 0.15:
                return atheris.Mutate(data, most)
            return self._mutate(data, rng)[:most]

        arguments = [
            sys.argv[0],
            f"-seed={self._seed % 2**31 + 1}",
            f"-artifact_prefix={folder}/",
            "-rss_limit_mb=0",
            "-timeout=99999",
        ]
        arguments += [f"-max_len={2**19}", "-len_control=0", "-detect_leaks=0"]
        arguments += ["-handle_segv=0", "-handle_abrt=0", "-handle_bus=0", "-verbosity=0"]
        atheris.Setup([*arguments, str(folder)], self.execute, custom_mutator=mutator)
        atheris.Fuzz()

    def _mutate(self, data: bytes, rng: random.Random) -> bytes:
        from tests.fuzz.mutate import mutate

        return mutate(data, self._reader.kind, rng, self._corpus)

    def execute(self, data: bytes) -> None:
        """Run one input; write down what it raised, took or left behind."""
        self._current.seek(0)
        self._current.truncate()
        self._current.write(data)
        began_s = time.process_time()
        self._inputs += 1
        self._note(began_s)
        _forget_peak()
        before = _peak_bytes()
        try:
            self._reader.read(bytes(data), self._inside)
        except StallscanError:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
            kind = type(error).__name__
            _keep(self._folder, kind, "".join(traceback.format_exception(error)), bytes(data))
        took_s, took = time.process_time() - began_s, _peak_bytes() - before
        if took_s > LIMIT_S:
            _keep(self._folder, "slow", f"FAULT {took_s:.0f} s", bytes(data))
        if took > LIMIT_BYTES:
            _keep(self._folder, "memory", f"FAULT {took / 2**30:.0f} GiB", bytes(data))
        if {path.name for path in self._scratch.iterdir()} != self._before:
            _keep(self._folder, "escape", "FAULT: a file outside", bytes(data))
        self._note(time.process_time())
        if time.process_time() - self._began_s > self._seconds:
            sys.stdout.flush()
            os._exit(0)

    def _note(self, now_s: float) -> None:
        self._status[:] = _STATUS.pack(self._inputs, now_s, now_s)


def _peak_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _import_readers() -> Any:
    """Import the readers, and what they import, so that atheris sees which lines an input runs."""
    if not _has_atheris():
        return importlib.import_module("tests.fuzz.readers").READERS
    import atheris

    with atheris.instrument_imports(include=["stallscan", "tifffile", "yaml"]):
        return importlib.import_module("tests.fuzz.readers").READERS


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
