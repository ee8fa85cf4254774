"""The report in a browser, opened as a file."""

import contextlib

import numpy as np
import pytest

from stallscan.calls.predictions import read_predictions
from stallscan.report import cards, report
from tests import drawing
from tests.browsing import MARKS, playwright, start_browser, wait
from tests.predicted import prediction, write_tables

pytestmark = MARKS
COUNT = 260  # more than one batch of cards
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    first = drawing.write(folder / "000.mp4")
    rows = []
    for number in range(COUNT):
        path = folder / f"{number:03}.mp4"
        if number:
            path.hardlink_to(first)
        score = (number * 37 % COUNT) / COUNT
        call = "stalled" if score >= 0.6 else "flowing"
        rows.append(prediction(path.name, score=score, call=call))
    # Without a score, and without a clip.
    rows.append(prediction("999.mp4", "unreadable", "", "unscorable"))
    predictions, _ = write_tables(folder, rows, [])
    out = folder / "report.html"
    settings = report.ReportSettings(max_cards=len(rows))
    report.write_report(predictions, out, recordings=[folder], settings=settings, processes=0)
    return predictions, out


@contextlib.contextmanager
def _open(path, size):
    width, height = SIZES[size]
    with playwright.sync_playwright() as started:
        browser = start_browser(started)
        context = browser.new_context(viewport={"width": width, "height": height})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened = context.new_page()
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.on("console", lambda message: opened.problems.append(message.text))

        def note(request):
            if not request.url.startswith(("data:", path.as_uri())):
                opened.problems.append(request.url)

        opened.on("request", note)
        opened.goto(path.as_uri())
        yield opened
        assert opened.problems == []
        browser.close()


@pytest.fixture(params=SIZES)
def page(request, written):
    with _open(written[1], request.param) as opened:
        yield opened


def _names(page):
    """Scroll to the end and return the names of all cards."""
    expected = int(page.locator(".bar output").text_content().split()[0])
    page.evaluate("document.querySelector('.end').scrollIntoView()")
    wait(page, f"document.querySelectorAll('.card').length === {expected}")
    return page.eval_on_selector_all(".card", "cards => cards.map((card) => card.dataset.name)")


def test_sorting_and_filtering(page, written):
    table = read_predictions(written[0]).set_index("filename")
    recommended = _names(page)
    assert sorted(recommended) == sorted(table.index)
    page.select_option("[data-sort]", "score:1")
    assert _names(page) == [*table["score"].dropna().sort_values().index, "999.mp4"]
    page.select_option("[data-sort]", "score:-1")
    names = _names(page)
    assert names[-1] == "999.mp4"
    page.select_option("[data-filter=call]", "stalled")
    assert _names(page) == [name for name in names if table["call"][name] == "stalled"]
    page.select_option("[data-filter=call]", "")
    page.locator("[data-find]").fill("05")
    assert sorted(_names(page)) == sorted(name for name in table.index if "05" in name)
    page.locator("[data-find]").fill("")
    page.select_option("[data-sort]", "")
    assert _names(page) == recommended


def test_only_clips_near_the_viewport_are_loaded_and_they_play(page):
    assert page.locator("video").count() < COUNT / 4
    page.evaluate("document.querySelector('.cards').scrollIntoView()")
    wait(page, "[...document.querySelectorAll('video')].some((video) => video.currentTime > 0)")
    first = page.locator("video").first.get_attribute("aria-label")
    _names(page)
    wait(page, f"![...document.querySelectorAll('video')].some((v) => v.ariaLabel === '{first}')")
    wait(page, "document.querySelector('video') !== null")
    assert page.locator("video").count() < COUNT / 4
    assert page.locator(".evidence img").count() == page.locator("video").count()


def test_a_clip_is_paused_by_click_and_by_key(page):
    page.evaluate("document.querySelector('.cards').scrollIntoView()")
    clip = page.locator("video").first
    playing = "!(document.querySelector('video')?.paused ?? true)"
    wait(page, playing)
    clip.click()
    assert clip.evaluate("(video) => video.paused")
    clip.press("Enter")
    wait(page, playing)
    page.locator("[data-play]").uncheck()
    assert clip.evaluate("(video) => video.paused")
    clip.click()  # this one alone plays
    wait(page, playing)
    assert not page.locator("[data-play]").is_checked()
    videos = "[...document.querySelectorAll('video')].filter((video) => !video.paused).length"
    assert page.evaluate(videos) == 1
    page.locator("[data-play]").check()
    page.locator("[data-play]").uncheck()
    assert clip.evaluate("(video) => video.paused")


def test_methods_paragraph_is_copied(page):
    page.locator("[data-copy]").click()
    wait(page, "document.querySelector('.methods output').textContent !== ''")
    text = page.evaluate("navigator.clipboard.readText()")
    assert f"{COUNT + 1} recordings" in text


@pytest.mark.parametrize(("size", "least"), [("desktop", 100), ("phone", 60)])
def test_where_the_net_looked_is_as_large_as_the_evidence(tmp_path, size, least):
    drawing.write(tmp_path / "a.mp4")
    predictions, _ = write_tables(tmp_path, [prediction("a.mp4")], [])
    picture = cards.as_webp(np.full((128, 128, 3), 200, np.uint8), 80)
    out = tmp_path / "report.html"
    report.write_report(
        predictions, out, recordings=[tmp_path], look=lambda _path: picture, processes=0
    )
    with _open(out, size) as page:
        page.evaluate("document.querySelector('.cards').scrollIntoView()")
        loaded = "[...document.querySelectorAll('.evidence img')].filter((one) => one.naturalWidth)"
        wait(page, f"{loaded}.length === 2")
        above, below = (box.bounding_box() for box in page.locator(".evidence img").all())
        card, text = (page.locator(name).bounding_box() for name in (".card", ".card .text"))
    assert above["y"] + above["height"] <= below["y"]
    assert below["y"] + below["height"] <= text["y"]
    assert above["height"] >= least
    assert below["height"] >= 100
    for box in (above, below):
        assert box["width"] > 0.95 * card["width"]
