"""How quick the review page is, what memory it takes, and whether answers get lost."""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import corpora
import cyclopts
import measured
import numpy as np
import pandas as pd
from common import HERE, machine, markdown, publish, say, show_progress, version
from playwright.sync_api import CDPSession, Page, sync_playwright

from stallscan.review.answers import Answers, New
from stallscan.runs import PREDICTION_COLUMNS, PREDICTIONS_NAME

COUNT, DISTINCT = 1_000, 12
LARGE = 10_000
PACED, PACE_S = 60, 1.5  # clips that are answered as a person does
LOOKS = (100, 500, 1_000)  # answered clips, after which memory is looked at
CLIENTS, EACH, MINUTE_S = 4, 250, 60.0
REQUESTS = 100
FIRST_S, NEXT_MS, REQUEST_MS = 1.0, 100.0, 20.0  # goals
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
# Resolves with the time, ms, of the first frame of the browser that a condition holds for.
FRAME = """new Promise((done) => {
  const look = () => (%s) ? requestAnimationFrame(() => done(performance.now()))
                          : requestAnimationFrame(look);
  look();
})"""
NEXT = f"""(async () => {{
  const start = performance.now(), item = shown.about.item;
  answer("flowing");
  const end = await {FRAME % "shown === null || shown.about.item !== item"};
  return end - start;
}})()"""


def main(out: Path | None = None, /, *, page: Path = HERE / "review.md") -> None:
    """Measure the page in Chromium and the server without it, and write the tables.

    Parameters
    ----------
    out
        A folder where the simulated recordings are kept; a temporary one if not given.
    page
        The tables, a Markdown file.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        corpus = corpora.simulated(out or folder, DISTINCT)
        recordings = sorted((corpus / "train").iterdir())
        linked = corpora.link(recordings, corpus.with_name("linked"), LARGE)
        many = sorted(path.name for path in linked.iterdir())
        names = many[:COUNT]
        in_browser = _in_browser(_run(folder / "browser", names, linked))
        at_once = _at_once(_run(folder / "clients", names, linked))
        without = [
            row
            for count in (COUNT, LARGE)
            for row in _requests(_run(folder / str(count), many[:count], linked))
        ]
        shutil.rmtree(linked)
    lead = (
        f"`stallscan review` of a run with {COUNT:,} names (hard links) of {DISTINCT} simulated "
        "recordings; the scores and calls of the run were drawn at random, for the page does not "
        "care. Chromium without a window, on the same machine, whose load average was "
        f"{os.getloadavg()[2]:.1f} over the last 15 minutes. {version()}, {machine()}."
    )
    tables = [*in_browser, at_once, markdown(["requests", "median, ms", "95 %, ms", ""], without)]
    publish(page, "The review page: speed, memory, answers", lead, tables)


def _run(folder: Path, names: Sequence[str], recordings: Path) -> Path:
    """Write a run of recordings in a folder, with random scores."""
    folder.mkdir()
    scores = np.random.default_rng(0).beta(0.4, 1.5, len(names))
    table = pd.DataFrame({"filename": names, "score": scores}).reindex(
        columns=list(PREDICTION_COLUMNS)
    )
    table["call"] = np.where(scores > 0.6, "stalled", "flowing")
    table = table.assign(status="ok", frames=50, threshold=0.6, bundle="none")
    table.to_csv(folder / PREDICTIONS_NAME, index=False)
    (folder / "run.json").write_text(json.dumps({"paths": [str(recordings)]}), encoding="utf-8")
    return folder


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[str, int]]:
    """Start the command, and yield its address and process."""
    words = [sys.executable, "-m", "stallscan", "review", str(folder), "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield line.partition(": ")[2].strip(), process.pid
        finally:
            process.terminate()


def _in_browser(folder: Path) -> list[str]:
    """Answer all clips, the first of them as a person does; return the tables."""
    with _server(folder) as (address, server), sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address, wait_until="domcontentloaded")
        first_s = page.evaluate(FRAME % "shown && shown.sheet") / 1000
        say(f"first clip: {first_s:.2f} s")
        again = browser.new_page()
        again.goto(address, wait_until="domcontentloaded")
        again_s = again.evaluate(FRAME % "shown && shown.sheet") / 1000
        again.close()
        paced = []
        for _ in range(PACED):
            time.sleep(PACE_S)
            paced.append(float(page.evaluate(NEXT)))
        memory = _answer_all(page, server)
        browser.close()
    answers = [given.filename for given in Answers(folder).current()]
    if len(answers) != COUNT or len(Answers(folder).since(0)) != COUNT:
        raise SystemExit(f"{len(answers)} answers instead of {COUNT}")
    median, late = np.percentile(paced, [50, 95])
    rows = [
        [
            "first clip visible, page opened as soon as the address is printed",
            f"{first_s:.2f} s",
            _met(first_s, FIRST_S),
        ],
        ["first clip visible, page opened again", f"{again_s:.2f} s", _met(again_s, FIRST_S)],
        ["next clip, median", f"{median:.0f} ms", _met(median, NEXT_MS)],
        ["next clip, 95 %", f"{late:.0f} ms", _met(late, NEXT_MS)],
        ["overhead of an item at that pace", f"{np.mean(paced):.0f} ms", "-"],
    ]
    note = (
        f"Next clip: from the answer to the first frame with the next clip, over {PACED} clips "
        f"that were looked at for {PACE_S:g} s each. The browser draws 60 frames a second, which "
        "is what these times are rounded up to. Memory below: after as many clips, the rest of "
        "them answered as quickly as they came; of server and browser with all their processes "
        "(shared memory counts once), the browser's with the program that drives it.\n"
    )
    head = ["clips answered", "server, MB", "browser, MB", "JavaScript heap, MB"]
    return [markdown(["", "", ""], rows), note, markdown(head, memory)]


def _answer_all(page: Page, server: int) -> list[list[str]]:
    """Answer what is left, and return the memory along the way."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    rows = []
    update = show_progress("answered")
    for number in range(PACED + 1, COUNT + 1):
        page.evaluate(FRAME % "!busy && shown")
        page.evaluate(NEXT)
        update(number, COUNT)
        if number in LOOKS:
            rows.append([f"{number:,}", *_memory(session, server)])
    page.evaluate(FRAME % "!busy")
    return rows


def _memory(session: CDPSession, server: int) -> list[str]:
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    heap = next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize")
    of_server = measured.memory(server)
    of_browser = measured.memory(os.getpid()) - of_server
    return [f"{value / 1e6:.0f}" for value in (of_server, of_browser)] + [f"{heap / 1e6:.1f}"]


def _at_once(folder: Path) -> str:
    """Give answers from four clients of two servers in one minute; return what became of them."""
    with _server(folder) as (first, _), _server(folder) as (second, _):
        addresses = [address.partition("?")[0] for address in (first, second)]
        start = time.perf_counter()

        def work(client: int) -> list[float]:
            return _give(addresses[client % 2], client, start)

        with ThreadPoolExecutor(CLIENTS) as clients:
            took = [each for all_ in clients.map(work, range(CLIENTS)) for each in all_]
        seconds = time.perf_counter() - start
    history = [
        (given.reviewer, given.filename, given.answer) for given, _ in Answers(folder).since(0)
    ]
    names = [f"{n:06d}.mp4" for n in range(EACH)]
    wanted = {(f"client {c}", name, "stalled") for c in range(CLIENTS) for name in names}
    lost, doubled = len(wanted - set(history)), len(history) - len(set(history))
    median, late = np.percentile(took, [50, 95])
    return (
        f"{len(wanted):,} answers from {CLIENTS} clients of two servers on one folder in "
        f"{seconds:.0f} s, each tenth sent twice: {lost} lost, {doubled} doubled, "
        f"{len(history):,} rows in the history; {median:.0f} ms for an answer in the median, "
        f"{late:.0f} ms at 95 %.\n"
    )


def _give(address: str, client: int, start: float) -> list[float]:
    took = []
    for number in range(EACH):
        time.sleep(max(start + number * MINUTE_S / EACH - time.perf_counter(), 0))
        body = {"item": number, "answer": "stalled", "token": f"client-{client}-{number:04d}"}
        for _ in range(2 if number % 10 == 0 else 1):
            took.append(_timed(lambda: _request(f"{address}api/answer", client, body)))  # noqa: B023
        _request(f"{address}api/queue?order=uncertain", client)
    return took


def _requests(folder: Path) -> Iterator[list[str]]:
    """Time requests to a server whose run two others have answered."""
    answers = Answers(folder)
    names = pd.read_csv(folder / PREDICTIONS_NAME)["filename"]
    answers.give_all(
        [
            New(f"token-{client}-{name}", name, f"client {client}", "flowing")
            for client in (1, 2)
            for name in names
        ]
    )
    with _server(folder) as (address, _):
        address = address.partition("?")[0]
        _request(f"{address}api/queue?order=random", 0)
        kinds: dict[str, Callable[[int], object]] = {
            "queue, uncertain first": lambda _: _request(f"{address}api/queue?order=uncertain", 0),
            "queue, random sample": lambda _: _request(f"{address}api/queue?order=random", 0),
            "answer": lambda number: _request(
                f"{address}api/answer",
                0,
                {"item": number, "answer": "stalled", "token": f"token-{number:06d}"},
            ),
        }
        for kind, ask in kinds.items():
            took = [_timed(lambda: ask(number)) for number in range(REQUESTS)]  # noqa: B023
            median, late = np.percentile(took, [50, 95])
            yield [
                f"{kind}, {len(names):,} recordings",
                f"{median:.1f}",
                f"{late:.1f}",
                _met(median, REQUEST_MS),
            ]


def _timed(act: Callable[[], object]) -> float:
    """Time a call, ms."""
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def _request(address: str, client: int, body: dict[str, Any] | None = None) -> Any:
    headers = {
        "content-type": "application/json",
        "x-stallscan": "1",
        "cookie": f"stallscan-reviewer=client%20{client}",
    }
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, content, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def _met(value: float, goal: float) -> str:
    return "met" if value < goal and math.isfinite(value) else "**missed**"


if __name__ == "__main__":
    cyclopts.run(main)
