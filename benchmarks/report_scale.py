"""How a report of thousands of cards is written and used: time, size, and memory."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cyclopts
import numpy as np
import pandas as pd
from common import HERE, machine, markdown, publish, say, version
from measured import memory, watch
from playwright.sync_api import Browser, Error, sync_playwright

from stallscan import simulate

DISTINCT = 24  # simulated recordings, each linked many times
LIMIT_S = 300.0  # of opening a page
SOURCE = HERE.parent / "src"
# Until the frame after the next has been drawn.
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
SORT = f"""async (order) => {{
  const sort = document.querySelector("[data-sort]");
  const start = performance.now();
  sort.value = order;
  sort.dispatchEvent(new Event("change"));
  await {DRAWN};
  return performance.now() - start;
}}"""
FILTER = SORT.replace("[data-sort]", "[data-filter=call]")
SCROLL = """async () => {
  document.querySelector(".cards").scrollIntoView();
  const frames = [];
  let before = performance.now();
  for (let step = 0; step < 60; step++) {
    scrollBy(0, 150);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - before);
    before = now;
  }
  return frames.sort((a, b) => a - b)[56];
}"""
HEAD = [
    *("", "written in s", "ratio", "peak memory, MB", "file, MB", "usable after s", "loaded in s"),
    *("browser, MB", "sort, ms", "filter, ms", "frame while scrolling, ms"),
]


def main(
    *,
    cards: int = 10_000,
    few: int = 200,
    against: Path | None = None,
    chromium: str = "chromium",
    page: Path = HERE / "report_scale.md",
) -> None:
    """Write reports of few and of many cards, use them in Chromium, and write the table.

    Parameters
    ----------
    cards
        Cards of the large report.
    few
        Cards of the small one; times are compared with it.
    against
        Folder `src` of another version, measured in the same run.
    chromium
        The browser.
    page
        The table, a Markdown file.
    """
    sources = {"this version": SOURCE} | ({"before": against.resolve()} if against else {})
    rows = []
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        make_run(folder, cards)
        for name, source in reversed(sources.items()):
            first = None
            for most in (few, cards):
                report = folder / "report.html"
                words = ["env", f"PYTHONPATH={source}", sys.executable, HERE / "report_job.py"]
                watched = watch([*words, folder, report, most])
                took = json.loads(watched.printed.splitlines()[-1])
                first = first or took["seconds"]
                used = use(report, chromium)
                row = [
                    f"{name}, {most:,} cards",
                    f"{took['seconds']:.1f}",
                    f"{took['seconds'] / first:.1f}",
                    f"{watched.peak_bytes / 1e6:,.0f}",
                    f"{report.stat().st_size / 1e6:,.0f}",
                    *used,
                ]
                say(" | ".join(row))
                rows.append(row)
                report.unlink()
    publish(page, "Reports of many cards", _lead(), [markdown(HEAD, rows)])


def _lead() -> str:
    return (
        f"`stallscan report` on {DISTINCT} simulated recordings, linked under many names "
        f"({version()}; {machine()}). Each clip was encoded once before the clock started, and "
        "copied for every card: the table shows what collecting and writing the page takes, not "
        "the encoding of the clips. *Ratio*: to the smaller report of the same version. *Peak "
        "memory*: of the writing process, with its libraries and the encoding. *Usable*: from "
        "opening the file until the first clip can play; *loaded*: until the whole file has been "
        "read. *Browser*: memory of all its processes (PSS), beyond those of an empty page, after "
        "loading. *Sort*: by ascending score, until the page has been drawn; *filter*: by call; "
        "*frame*: 95th percentile of 60 frames that scroll by 150 px each. *Failed*: the first "
        f"clip could not play within {LIMIT_S:.0f} s, or the browser gave up."
    )


def make_run(folder: Path, count: int) -> None:
    """Write ``recordings/``, links to a few simulated recordings, and ``predictions.csv``."""
    corpus = folder / "corpus"
    settings = simulate.SimulateSettings(count=DISTINCT, stalled=0.3, seed=30_000)
    simulate.simulate(corpus, settings)
    originals = sorted((corpus / "train").glob("*.mp4"))
    (folder / "recordings").mkdir()
    names = [f"{number:06}.mp4" for number in range(count)]
    for number, name in enumerate(names):
        os.link(originals[number % len(originals)], folder / "recordings" / name)
    scores = np.random.default_rng(0).random(count).round(6)
    pd.DataFrame(
        {
            "filename": names,
            "status": "ok",
            "reason": "",
            "frames": 56,
            "frames_declared": 56,
            "score": scores,
            "call": np.where(scores >= 0.5, "stalled", "flowing"),
            "threshold": 0.5,
            "bundle": "random scores",
        }
    ).to_csv(folder / "predictions.csv", index=False)
    run = {"paths": [str(folder / "recordings")], "recordings": count}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def use(report: Path, chromium: str) -> list[str]:
    """Open a report in a browser of its own, sort, filter and scroll; return the cells."""
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which(chromium), args=["--no-sandbox"]
        )
        try:
            return _use(browser, report)
        except Error as error:  # a page that kills the browser is a finding
            say(f"{report.stat().st_size:,} bytes: {str(error).splitlines()[0]}")
            return ["failed", *[""] * 5]
        finally:
            browser.close()


def _use(browser: Browser, report: Path) -> list[str]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(1000 * LIMIT_S)
    page.wait_for_timeout(1000)
    empty = memory(os.getpid())
    start = time.perf_counter()
    page.goto(report.as_uri(), wait_until="commit")
    page.wait_for_selector(".bar:not([hidden])", state="attached")
    page.evaluate("document.querySelector('.cards').scrollIntoView()")
    page.wait_for_selector(".card video[src]")
    usable = time.perf_counter() - start
    page.wait_for_load_state("load")
    loaded = time.perf_counter() - start
    page.wait_for_timeout(2000)
    used = memory(os.getpid()) - empty
    times = [
        page.evaluate(SORT, "score:1"),
        page.evaluate(FILTER, "stalled"),
    ]
    page.evaluate(FILTER, "")
    times.append(page.evaluate(SCROLL))
    return [
        f"{usable:.1f}",
        f"{loaded:.1f}",
        f"{used / 1e6:,.0f}",
        *(f"{each:,.0f}" for each in times),
    ]


if __name__ == "__main__":
    cyclopts.run(main)
