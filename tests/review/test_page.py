"""The review page in a browser: keys, undo, reload, a killed server."""

import json
import os
import signal
import time

import pytest

from stallscan.review.answers import Answers
from tests import drawing
from tests.browsing import (
    MARKS,
    Server,
    current,
    open_page,
    playwright,
    start_browser,
    wait,
    wait_for_another,
    wait_for_name,
)

pytestmark = MARKS
COUNT = 56
KEYS = {"s": "stalled", "f": "flowing", "u": "unsure", "x": "unscorable", "b": "broken"}


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
        browser = start_browser(started)
        yield open_page(browser, server)
        browser.close()


def _answer(page, key):
    """Press a key and wait until the next recording is shown; return which was answered."""
    name = page.locator("#name").text_content()
    page.keyboard.press(key)
    wait_for_another(page, name)
    return name


def test_fifty_recordings_by_keyboard_with_undo_reload_and_a_killed_server(server, page):
    given = {}
    for number in range(50):
        key = "sfuxb"[number % 5]
        given[_answer(page, key)] = KEYS[key]
        if number == 15:
            page.keyboard.press("z")
            wait(page, "!busy")
            name = page.locator("#name").text_content()
            assert given[name] == KEYS[key]
            page.keyboard.press("f")
            wait_for_another(page, name)
            given[name] = "flowing"
        if number == 25:
            page.reload()
            wait_for_name(page)
        if number == 35:
            server.end(signal.SIGKILL)
            name = page.locator("#name").text_content()
            page.keyboard.press("s")
            wait(page, "document.getElementById('alert').textContent !== ''")
            assert name not in current(server.folder)
            server.start()
            wait_for_another(page, name)
            given[name] = "stalled"
    assert current(server.folder) == given
    assert len(given) == 51
    # 51 answers, one undo, and the answer after it
    assert len(Answers(server.folder).since(0)) == 53
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
    assert current(server.folder) == {}
    name = _answer(page, "1")
    page.locator("#recent button").first.click()
    wait(page, f"document.getElementById('name').textContent === {json.dumps(name)}")
    _answer(page, "0")
    assert current(server.folder) == {name: "flowing"}


SLOW_QUEUE = """
    const plain = window.fetch;
    window.fetch = async (path, ...rest) => {
      if (String(path).startsWith("api/queue")) await new Promise((done) => setTimeout(done, 300));
      return plain(path, ...rest);
    };
"""


def test_keys_count_as_soon_as_the_next_clip_is_shown(page, server):
    page.evaluate(SLOW_QUEUE)
    given, name = {}, ""
    for number in range(12):
        key = "sfuxb"[number % 5]
        wait(page, f"document.getElementById('name').textContent !== {json.dumps(name)}")
        name = page.locator("#name").text_content()
        page.keyboard.press(key)
        given[name] = KEYS[key]
    wait_for_another(page, name)
    assert len(given) == 12
    assert current(server.folder) == given
    # The queue that was asked for before the last answer does not bring its recording back.
    time.sleep(1)
    assert page.locator("#name").text_content() not in given
    assert page.problems == []


# The server has no net to ask; the page believes that it has.
FETCHED = """
    window.fetched = [];
    const asked = window.fetch, clipOf = fetchClip;
    window.fetch = (path, options) => {
      if (String(path).startsWith("api/looked")) {
        fetched.push({ path, signal: options.signal, after: performance.now() - since });
      }
      return asked(path, options);
    };
    fetchClip = async (item) => {
      const clip = await clipOf(item);
      return { ...clip, about: { ...clip.about, looked: true } };
    };
    null;
"""


def test_what_the_net_looked_at_is_asked_for_only_where_the_reviewer_stays(page):
    page.evaluate(FETCHED)
    for key in "sfus":
        _answer(page, key)
    wait(page, "fetched.length > 0")
    time.sleep(0.5)
    *passed_by, last = page.evaluate("fetched.map((each) => each.path)")
    assert last == page.evaluate("`api/looked/${shown.about.item}`")
    assert page.evaluate("fetched.every((each) => each.after >= 299)")
    _answer(page, "f")
    count = len(passed_by) + 1
    assert page.evaluate(f"fetched.slice(0, {count}).every((each) => each.signal.aborted)")


def test_the_page_says_why_an_answer_is_not_saved(page, server):
    page.evaluate("""
        const plain = window.fetch;
        window.isFull = true;
        window.fetch = (path, options) => isFull && path === "api/answer"
          ? Promise.resolve(new Response("the disk is full", { status: 503 }))
          : plain(path, options);
    """)
    name = page.locator("#name").text_content()
    page.keyboard.press("s")
    wait(page, "document.getElementById('alert').textContent.includes('the disk is full')")
    assert current(server.folder) == {}
    page.evaluate("isFull = false")
    wait_for_another(page, name)
    assert page.locator("#alert").text_content() == ""
    assert current(server.folder) == {name: "stalled"}


def test_the_pace_is_that_of_one_reviewer(page):
    for key in "sf":
        _answer(page, key)
    page.evaluate("times = [10, 10]; showProgress()")
    assert "360 an hour" in page.locator("#progress").text_content()
    page.keyboard.press("g")
    wait(page, "!document.getElementById('contact').hidden && cells.every((cell) => cell.clip)")
    page.keyboard.press("Enter")
    wait(page, "!busy")
    assert page.evaluate("times.length") == 2
    page.keyboard.press("Escape")
    wait(page, "document.getElementById('progress').textContent.includes('360 an hour')")
    page.locator("#who").click()
    page.locator("#new-name").fill("ann")
    page.keyboard.press("Enter")
    wait(page, "state.reviewer === 'ann'")
    assert "an hour" not in page.locator("#progress").text_content()


def test_whoever_comes_from_another_computer_gives_a_name_first(server, tmp_path):
    (tmp_path / "shared").mkdir()
    for path in server.folder.glob("*.mp4"):
        os.link(path, tmp_path / "shared" / path.name)
    shared = Server(tmp_path / "shared", "--host", "0.0.0.0")
    with playwright.sync_playwright() as started:
        browser = start_browser(started)
        opened = browser.new_page()
        token = shared.printed.rpartition("token=")[2].strip()
        opened.goto(f"{shared.address}?order=unseen#token={token}")
        wait(opened, "document.getElementById('rename').open")
        assert not opened.locator("#keep-name").is_visible()
        opened.keyboard.press("Escape")
        wait(opened, "document.getElementById('rename').open")
        opened.locator("#new-name").fill(" ")
        opened.keyboard.press("Enter")
        wait(opened, "document.getElementById('alert').textContent !== ''")
        wait(opened, "document.getElementById('rename').open")
        opened.locator("#new-name").fill("ann")
        opened.keyboard.press("Enter")
        wait_for_name(opened)
        _answer(opened, "s")
        assert [each.reviewer for each in Answers(shared.folder).current()] == ["ann"]
        browser.close()
    shared.end()


def test_space_after_a_click_plays_and_does_not_answer_the_next_recording(page, server):
    name = page.locator("#name").text_content()
    page.locator("#choices .flowing").click()
    wait_for_another(page, name)
    page.keyboard.press(" ")
    assert page.locator("#play").text_content() == "Play"
    time.sleep(0.3)
    assert current(server.folder) == {name: "flowing"}
    page.locator("#choices .stalled").focus()  # by keyboard, it is pressed
    name = page.locator("#name").text_content()
    page.keyboard.press(" ")
    wait_for_another(page, name)
    assert current(server.folder)[name] == "stalled"


def test_a_double_click_answers_once(page, server):
    name = page.locator("#name").text_content()
    box = page.locator("#choices .stalled").bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    for count in (1, 2):
        page.mouse.down(click_count=count)
        page.mouse.up(click_count=count)
        wait_for_another(page, name)
    time.sleep(0.3)
    assert current(server.folder) == {name: "stalled"}


def test_a_key_that_is_held_down_takes_back_one_answer(page, server):
    for key in "sf":
        _answer(page, key)
    for _ in range(3):
        page.keyboard.down("z")  # the second is a repetition
        wait(page, "!busy")
    page.keyboard.up("z")
    time.sleep(0.3)
    assert list(current(server.folder).values()) == ["stalled"]


def test_a_letter_answers_and_does_not_choose_another_order(page, server):
    name = page.locator("#name").text_content()
    page.locator("#order").focus()
    page.keyboard.press("s")
    wait_for_another(page, name)
    page.keyboard.press("U")  # Caps Lock
    wait(page, "!busy")
    assert page.evaluate("order()") == "unseen"
    assert sorted(current(server.folder).values()) == ["stalled", "unsure"]


def test_each_tab_answers_for_the_name_that_it_shows(page, server):
    other = page.context.new_page()
    other.goto(f"{server.address}?order=unseen")
    wait_for_name(other)
    other.locator("#who").click()
    other.locator("#new-name").fill("Zo\u00eb")
    other.keyboard.press("Enter")
    wait(other, "state.reviewer === 'Zo\u00eb'")
    page.bring_to_front()
    shown = page.locator("#who").text_content()
    _answer(page, "s")
    (given,) = Answers(server.folder).current()
    assert shown == f"Reviewer: {given.reviewer}" != "Reviewer: Zo\u00eb"
    other.bring_to_front()
    other.keyboard.press("f")
    wait(other, "!busy && state.answered === 1")
    assert [each.reviewer for each in Answers(server.folder).current()] == [
        given.reviewer,
        "Zo\u00eb",
    ]


def test_a_page_of_another_run_at_the_same_address_answers_nothing(page, server, tmp_path):
    first = page.evaluate("shown.about.item")
    server.end()
    server.folder = tmp_path / "other"
    server.folder.mkdir()
    drawing.write(server.folder / "other.mp4", seed=99, count=5, height=64, width=64)
    server.start()
    page.keyboard.press("s")
    wait(page, "document.getElementById('alert').textContent.includes('Reload')")
    assert current(server.folder) == {}
    page.reload()
    wait(page, "shown !== null")
    assert page.evaluate("shown.about.item") == first == 0
    # Not the sheet of the other run, which the browser has kept.
    assert page.evaluate("[shown.sheet.width, shown.sheet.height]") == page.evaluate(
        "[shown.about.columns * shown.about.width,"
        " Math.ceil(shown.about.frames / shown.about.columns) * shown.about.height]"
    )
    page.keyboard.press("f")
    wait(page, "!busy")
    assert current(server.folder) == {"other.mp4": "flowing"}
