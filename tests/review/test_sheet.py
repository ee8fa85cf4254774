"""The contact sheet, the dialogs and their accessibility, in a browser."""

import os

import pytest

from stallscan.review.answers import Answers
from tests import drawing, predicted
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
COUNT, FLOWING = 40, 30
NAMES = [f"{index:02}.mp4" for index in range(COUNT)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose first recordings are called flowing, the first one surest; one is broken."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recordings").mkdir()
    drawn = drawing.write(folder / "drawn.mp4", count=8, height=64, width=64)
    for name in NAMES:
        (folder / "recordings" / name).hardlink_to(drawn)
    (folder / "recordings" / NAMES[5]).unlink()
    (folder / "recordings" / NAMES[5]).write_bytes(b"no video")
    rows = [
        predicted.prediction(
            name, score=index / COUNT, call="flowing" if index < FLOWING else "stalled"
        )
        for index, name in enumerate(NAMES)
    ]
    predicted.write_tables(folder, rows, [(name, 1) for name in NAMES[-8:]])
    (folder / "run.json").write_text(f'{{"paths": ["{folder / "recordings"}"]}}')
    return folder


@pytest.fixture
def server(run, tmp_path):
    for name in ("predictions.csv", "labels.csv", "run.json"):
        os.link(run / name, tmp_path / name)
    running = Server(tmp_path)
    yield running
    running.end()


@pytest.fixture
def browser():
    with playwright.sync_playwright() as started:
        opened = start_browser(started)
        yield opened
        opened.close()


def _open_sheet(page):
    page.keyboard.press("g")
    _wait_for_sheet(page)


def _wait_for_sheet(page):
    wait(page, "!document.getElementById('contact').hidden && !busy")
    wait(page, "cells.every((cell) => cell.clip)")


def _shown(page):
    return [name.split()[-1] for name in page.locator("#cells .name").all_text_contents()]


def test_a_sheet_by_keyboard_alone(server, browser):
    page = open_page(browser, server)
    _open_sheet(page)
    assert _shown(page) == NAMES[:12]
    # What cannot be shown is not confirmed as flowing.
    assert page.evaluate("cells.findIndex(isMarked)") == 5
    page.keyboard.press("2")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.keyboard.press("3")
    page.keyboard.press("3")
    assert page.evaluate("cells.map(isMarked).flatMap((marked, n) => marked ? [n] : [])") == [1, 5]
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('contact').hidden && !busy")
    flowing = {name: "flowing" for n, name in enumerate(NAMES[:12]) if n not in (1, 5)}
    assert current(server.folder) == flowing
    assert page.locator("#name").text_content() == NAMES[1]
    page.keyboard.press("s")
    wait_for_another(page, NAMES[1])
    assert page.locator("#name").text_content() == NAMES[5]
    page.keyboard.press("b")
    _wait_for_sheet(page)
    assert current(server.folder) == flowing | {NAMES[1]: "stalled", NAMES[5]: "broken"}
    assert _shown(page) == NAMES[12:24]
    page.keyboard.press("Escape")
    wait(page, "document.getElementById('contact').hidden")
    assert page.problems == []


def test_undo_takes_the_whole_sheet_back_and_shows_it_again(server, browser):
    page = open_page(browser, server)
    _open_sheet(page)
    page.locator("#cells button").nth(2).click()
    page.locator("#confirm").click()
    wait(page, "document.getElementById('contact').hidden && !busy")
    assert len(current(server.folder)) == 10
    page.keyboard.press("z")
    _wait_for_sheet(page)
    assert current(server.folder) == {}
    assert len(_shown(page)) == 10
    page.keyboard.press("Enter")
    wait(page, "!busy")
    assert len(current(server.folder)) == 10
    assert len(Answers(server.folder).since(0)) == 30


def test_known_recordings_are_announced(run, tmp_path, browser):
    for name in ("predictions.csv", "labels.csv", "run.json"):
        os.link(run / name, tmp_path / name)
    server = Server(tmp_path, "--known", tmp_path / "labels.csv", "--known-share", "0.5")
    page = open_page(browser, server, order="random")
    assert "Known recordings" in page.locator("#own").text_content()
    assert "0 of" in page.locator("#check-said").text_content()
    server.end()


def test_two_reviewers_are_compared(server, browser):
    page = open_page(browser, server)
    for name in ("ann", "bob"):
        page.locator("#who").click()
        page.locator("#new-name").fill(name)
        page.keyboard.press("Enter")
        wait(page, f"state.reviewer === '{name}'")
        for key in "sf":
            page.keyboard.press(key)
            wait(page, "!busy")
    page.keyboard.press("r")
    wait(page, "document.getElementById('people').open")
    assert "ann" in page.locator("#people-rows").text_content()
    # In the order 'unseen', bob was shown others.
    assert "not defined" in page.locator("#pair-rows").text_content()
    assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(server, browser, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.base").AXE_SCRIPT
    found = {}

    def check(place):
        result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        for each in result["violations"]:
            if each["impact"] in ("serious", "critical"):
                found[place, each["id"]] = [node["html"] for node in each["nodes"]]

    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 780}}
    page = open_page(browser, server, order="random", **options)
    page.evaluate(axe)
    check("single")
    for opener, dialog in (
        ("#help-button", "help"),
        ("#people-button", "people"),
        ("#who", "rename"),
    ):
        page.locator(opener).click()
        wait(page, f"document.getElementById('{dialog}').open")
        check(dialog)
        page.keyboard.press("Escape")
    _open_sheet(page)
    page.keyboard.press("1")
    check("sheet")
    page.keyboard.press("Escape")
    for key in "sf":
        wait(page, "document.getElementById('contact').hidden && !busy")
        page.keyboard.press(key)
        wait(page, "!busy")
    check("answered")
    assert found == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width


SEEN = """() => {
  warn("Not saved");
  const box = $("alert").getBoundingClientRect();
  const middle = box.top + box.height / 2;
  return [0.05, 0.5, 0.95].every((part) =>
    document.elementFromPoint(box.left + part * box.width, middle) === $("alert"));
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_warning_covers_and_is_not_covered(server, browser, width):
    page = open_page(browser, server, viewport={"width": width, "height": 780})
    wait(page, "shown !== null")
    assert page.evaluate(SEEN)
    _open_sheet(page)
    assert page.evaluate(SEEN)


def test_nothing_can_be_answered_where_nothing_is_seen(server, browser):
    page = open_page(browser, server, order="unseen")
    for name in NAMES[:5]:
        page.keyboard.press("f")
        wait_for_another(page, name)
    assert page.locator("#name").text_content() == NAMES[5]  # broken
    enabled = page.locator("#choices button:enabled")
    assert enabled.evaluate_all("each => each.map((b) => b.className)") == ["unsure", "broken"]
    for key in "sf1x":
        page.keyboard.press(key)
    page.keyboard.press("b")
    wait_for_another(page, NAMES[5])
    assert current(server.folder)[NAMES[5]] == "broken"
    for name in NAMES[6:]:
        page.keyboard.press("s")
        wait_for_another(page, name)
    assert "Nothing is left" in page.locator("#name").text_content()
    assert enabled.count() == 0
    assert page.locator("#place").text_content() == ""
    assert page.evaluate("[$('frame').value, $('frame').max]") == ["0", "0"]
    page.keyboard.press("s")
    assert len(current(server.folder)) == COUNT
    page.locator("#recent button").last.click()
    wait_for_name(page)
    wait(page, "shown !== null")
    assert enabled.count() == 5
    assert page.problems == []
