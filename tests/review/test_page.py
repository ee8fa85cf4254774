"""The review page in a browser: keys, undo, reload, a killed server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from stallscan.review.answers import Answers
from tests import drawing

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
COUNT = 56
# The sandbox of Chromium does not work for root, and its background requests are not the page's.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
KEYS = {"s": "stalled", "f": "flowing", "u": "unsure", "x": "unscorable", "b": "broken"}


class Server:
    """The command, on one port that stays the same when it starts again."""

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        words = ["review", self.folder, "--no-browser", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stallscan", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline().startswith("review page: ")

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(COUNT):
        drawing.write(folder / f"{index:02}.mp4", seed=index, count=8, height=64, width=64)
    return folder


@pytest.fixture
def server(recordings, tmp_path):
    for path in recordings.iterdir():
        os.link(path, tmp_path / path.name)
    running = Server(tmp_path)
    yield running
    if running.process.poll() is None:
        running.end()


@pytest.fixture
def page(server):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page()
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))

        def note(request):
            if not request.url.startswith((f"http://127.0.0.1:{server.port}/", "blob:")):
                opened.problems.append(request.url)

        opened.on("request", note)
        opened.goto(f"http://127.0.0.1:{server.port}/?order=unseen")
        _wait(opened, "document.getElementById('name').textContent !== ''")
        yield opened
        browser.close()


def _answer(page, key):
    """Press a key and wait until the next recording is shown; return which was answered."""
    name = page.locator("#name").text_content()
    page.keyboard.press(key)
    _wait_for_another(page, name)
    return name


def _wait(page, condition, seconds=30):
    """Wait until a condition in JavaScript is true; Playwright's own waiting breaks the policy."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.01)


def _wait_for_another(page, name):
    _wait(page, f"document.getElementById('name').textContent !== {json.dumps(name)}")
    _wait(page, "!busy")


def _current(folder):
    return {given.filename: given.answer for given in Answers(folder).current()}


def test_fifty_recordings_by_keyboard_with_undo_reload_and_a_killed_server(server, page):
    given = {}
    for number in range(50):
        key = "sfuxb"[number % 5]
        given[_answer(page, key)] = KEYS[key]
        if number == 15:
            page.keyboard.press("z")
            _wait(page, "!busy")
            name = page.locator("#name").text_content()
            assert given[name] == KEYS[key]
            page.keyboard.press("f")
            _wait_for_another(page, name)
            given[name] = "flowing"
        if number == 25:
            page.reload()
            _wait(page, "document.getElementById('name').textContent !== ''")
        if number == 35:
            server.end(signal.SIGKILL)
            name = page.locator("#name").text_content()
            page.keyboard.press("s")
            _wait(page, "document.getElementById('alert').textContent !== ''")
            assert name not in _current(server.folder)
            server.start()
            _wait_for_another(page, name)
            given[name] = "stalled"
    assert _current(server.folder) == given
    assert len(given) == 51
    # 51 answers, one undo, and the answer after it
    assert len(Answers(server.folder).history()) == 53
    assert page.locator("#recent li").count() == 10
    assert page.problems == []


def test_keys_play_step_and_correct(page, server):
    page.keyboard.press(" ")
    assert page.locator("#play").text_content() == "Play"
    page.keyboard.press("ArrowRight")
    before = page.locator("#place").text_content()
    page.keyboard.press("ArrowRight")
    assert page.locator("#place").text_content() != before
    page.keyboard.press("]")
    assert page.locator("#rate").text_content() == "20/s"
    page.keyboard.press("o")
    assert page.locator("#outline").get_attribute("aria-pressed") == "false"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("s")  # not an answer while the help is open
    page.keyboard.press("Escape")
    assert _current(server.folder) == {}
    name = _answer(page, "1")
    page.locator("#recent button").first.click()
    _wait(page, f"document.getElementById('name').textContent === {json.dumps(name)}")
    _answer(page, "0")
    assert _current(server.folder) == {name: "flowing"}
