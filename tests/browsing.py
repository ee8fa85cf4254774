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
    page = browser.new_page(**options)
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


def current(folder):
    return {given.filename: given.answer for given in Answers(folder).current()}
