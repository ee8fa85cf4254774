"""Draw the pictures of the documentation from simulated recordings; `make pictures` runs it.

The report and the review page are photographed in Chromium, in light and dark. Everything is
simulated: real recordings are not ours to ship.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, sync_playwright

import stallscan

OUT = Path(__file__).parent / "pictures"
# Segments in the image plane with gaps that are easy to see, in focus for 10 frames and more.
SEEDS = {"stalled": 1012, "flowing": 905}
FRAMES = 8  # of a film strip
CORPUS = {"count": 16, "stalled": 0.4, "seed": 905}
PAGE = {"width": 1200, "height": 800}
QUALITY = 80


def main() -> None:
    """Draw all pictures into docs/pictures."""
    OUT.mkdir(exist_ok=True)
    for name, seed in SEEDS.items():
        frames, truth = stallscan.simulate_recording(name == "stalled", seed)
        first = truth.first_in_focus + (truth.frames_in_focus - FRAMES) // 2
        _write(f"{name}.webp", _strip(frames, first))
        if name == "stalled":
            _write("frame.webp", frames[first + FRAMES // 2])
    with tempfile.TemporaryDirectory() as temporary:
        _photograph(Path(temporary))


def _strip(frames: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    """Return consecutive frames of the clip side by side, uint8 (rows, columns)."""
    clip = stallscan.make_clip(frames, {"size": 64, "shape": "pad", "channels": "grey+mask"})
    gap = np.full((64, 2), 128, np.uint8)
    tiles = [clip.pixels[first + each, :, :, 0] for each in range(FRAMES)]
    strip = np.hstack([each for tile in tiles for each in (tile, gap)][:-1])
    return cv2.resize(strip, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def _write(name: str, pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(OUT / name), pixels, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


def _photograph(folder: Path) -> None:
    """Photograph the report and the review page of a small simulated run."""
    corpus, run = folder / "corpus", folder / "results"
    stallscan.simulate_corpus(corpus, **CORPUS)
    stallscan.predict(corpus / "train", out=run)
    _stallscan("report", run, "-o", run / "report.html")
    review = subprocess.Popen(
        [sys.executable, "-m", "stallscan", "review", run, "--no-browser", "--order", "stalled"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LOGNAME": "reviewer"},
    )
    try:
        address = review.stdout.readline().rpartition(" ")[2].strip() if review.stdout else ""
        with sync_playwright() as started:
            chromium = started.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            _shoot(chromium, (run / "report.html").as_uri(), "report", ".bar")
            _shoot(chromium, address, "review", "header")
            chromium.close()
    finally:
        review.terminate()
        review.wait()


def _stallscan(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "stallscan", *map(str, words)], check=True)


def _shoot(chromium: Browser, address: str, name: str, place: str) -> None:
    """Photograph a page from an element on, in light and dark."""
    for scheme in ("light", "dark"):
        page = chromium.new_page(viewport=PAGE, color_scheme=scheme)
        page.goto(address)
        page.locator(place).first.evaluate("it => it.scrollIntoView()")
        page.wait_for_timeout(3000)  # clips and evidence pictures appear
        shot = np.frombuffer(page.screenshot(), np.uint8)
        pixels = cv2.imdecode(shot, cv2.IMREAD_COLOR)
        path = OUT / f"{name}-{scheme}.webp"
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
        page.close()


if __name__ == "__main__":
    main()
