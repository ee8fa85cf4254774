"""The review page in a browser."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from stallscan.review.answers import Answers

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
# The sandbox of Chromium does not work for root, and its background requests are not the page's.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


class Server:
    """The command, on one port that stays the same when it starts again."""

    def __init__(self, folder, *options):
        self.folder, self.options = folder, options
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        words = ["review", self.folder, "--no-browser", "--port", self.port, *self.options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stallscan", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.printed = self.process.stdout.readline()
        assert self.printed.startswith("review page: ")

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stdout.close()


def start_browser(started):
    """Start Chromium."""
    return started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


def open_page(browser, server, order="unseen", **options):
    """Open the page, and list errors and requests to elsewhere in its attribute ``problems``."""
    page = browser.new_context(**options).new_page()  # other tabs may follow
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))

    def note(request):
        if not request.url.startswith((server.address, "blob:")):
            page.problems.append(request.url)

    page.on("request", note)
    page.goto(f"{server.address}?order={order}")
    wait_for_name(page)
    return page


def wait(page, condition, seconds=30):
    """Wait until a condition in JavaScript is true; Playwright's own waiting breaks the policy."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.01)


def wait_for_name(page):
    wait(page, "document.getElementById('name').textContent !== ''")


def wait_for_another(page, name):
    wait(page, f"document.getElementById('name').textContent !== {json.dumps(name)}")
    wait(page, "!busy")


# The width of the document, and texts with less contrast than they need: 3:1 if they are large,
# otherwise 4.5:1 (WCAG 2). Texts in plots are text elements, with the colour in `fill`.
FAINT = """() => {
  // The numbers of a confusion matrix are not on paper, but on the shade of their cell.
  const UNSEEN = "[hidden], script, style, .unseen, [aria-label^='Confusion matrix']";
  const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((level) => level / 255)
    .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
    .reduce((sum, level, channel) => sum + level * [0.2126, 0.7152, 0.0722][channel], 0);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(each).backgroundColor);
      if (alpha === 1 && r !== undefined) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const found = [];
  let count = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!own || box.width < 2 || element.closest(UNSEEN)) continue;
    const style = getComputedStyle(element);
    const isPlot = element.closest("svg") !== null;
    const ink = parse(isPlot ? style.fill : style.color);
    const [high, low] = [light(ink), light(ground(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    count += 1;
    if ((high + 0.05) / (low + 0.05) < (isLarge ? 3 : 4.5))
      found.push(`${element.textContent.trim().slice(0, 40)}: ${ink} on ${ground(element)}`);
  }
  return [count, found];
}"""
SCHEMES = ("light", "dark")
WIDTHS = (1280, 390)


def refuse_unreadable(address, least):
    """Fail if a page is wider than the window, or a text of at least so many is hard to read."""
    with playwright.sync_playwright() as started:
        browser = start_browser(started)
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = browser.new_page(
                    viewport={"width": width, "height": 800}, color_scheme=scheme
                )
                page.goto(address)
                # Cards out of view are not laid out.
                page.evaluate("document.querySelector('.cards')?.scrollIntoView()")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, width
                count, faint = page.evaluate(FAINT)
                assert count >= least, count
                assert faint == [], (scheme, width, faint)
                page.close()
        browser.close()


def current(folder):
    return {given.filename: given.answer for given in Answers(folder).current()}
