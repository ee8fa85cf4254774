"""What the server of the review page shows, and to whom."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stallscan.clips import fill
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.review import clips, desk, run, serve
from stallscan.review.answers import ANSWERS
from stallscan.review.clips import Cache
from stallscan.vessels.outline import OutlineSettings
from tests import drawing
from tests.serving import client_of, give, many, now, post, queue, sheet, table


def test_where_the_net_looked_is_found_once_and_not_for_what_cannot_be_read(folder, answers):
    seen = []

    def look(path):
        seen.append(path.name)
        return b"picture"

    client = client_of(folder, answers, look=look)
    assert client.get("/api/clip/0").json()["looked"]
    for _ in range(2):
        assert client.get("/api/looked/0").raise_for_status().content == b"picture"
    broken = [item["item"] for item in queue(client)["items"] if "broken" in item["filename"]]
    assert not client.get(f"/api/clip/{broken[0]}").json()["looked"]
    assert client.get(f"/api/looked/{broken[0]}").status_code == 404
    assert seen == ["0.mp4"]


def test_blind_reviewers_do_not_see_where_the_net_looked(folder, answers):
    client = client_of(folder, answers, look=lambda _path: b"picture", blind=True)
    assert not client.get("/api/clip/0").json()["looked"]
    assert client.get("/api/looked/0").status_code == 404


def test_answers_do_not_wait_for_where_the_net_looked(folder, answers):
    started, go_on, seen = threading.Event(), threading.Event(), []

    def look(path):
        seen.append(path.name)
        started.set()
        assert go_on.wait(20)
        return b"picture"

    about = desk.PageSettings(reviewer="me")
    table = desk.Desk(run.read(folder), answers, Cache(now), about, None, look)
    with ThreadPoolExecutor(60) as asking:
        first = asking.submit(table.looked, "me", 0)
        assert started.wait(20)
        passed_by = [asking.submit(table.looked, "me", 1) for _ in range(40)]
        other = asking.submit(table.looked, "ann", 1)  # whose turn comes
        last = asking.submit(table.looked, "me", 2)
        # None of them keeps a thread of the server.
        assert {each.result(20) for each in passed_by} == {b""}
        assert not last.done()
        assert not other.done()
        go_on.set()
        assert {each.result(20) for each in (first, other, last)} == {b"picture"}
    assert len(seen) == 3


def test_what_cannot_be_shown_takes_no_call(folder, answers, tmp_path):
    table(tmp_path, ["0.mp4", "gone.mp4", "broken.mp4"], paths=[str(folder)])
    client = client_of(tmp_path, answers)
    told = queue(client, "random")
    assert (told["left"], told["total"], told["missing"]) == (2, 2, 1)
    assert {item["filename"] for item in told["items"]} == {"0.mp4", "broken.mp4"}
    possible = [client.get(f"/api/clip/{item}").json()["answers"] for item in range(3)]
    assert possible == [list(ANSWERS), [], ["unsure", "broken"]]
    for item, answer, status in (
        (1, "flowing", 409),
        (1, "broken", 409),
        (2, "flowing", 409),
        (2, "unscorable", 409),
        (2, "broken", 200),
        (0, "flowing", 200),
    ):
        given = give(client, item, answer, f"token-{item}-{answer}")
        assert given.status_code == status, (item, answer)
    both = sheet(0, 2)
    assert post(client, "/api/answers", answers=both, sheet="sheet-01").status_code == 409
    assert {given.filename: given.answer for given in answers.current()} == {
        "0.mp4": "flowing",
        "broken.mp4": "broken",
    }


def test_the_clips_of_a_store_are_shown_where_the_recordings_are_gone(answers, tmp_path):
    names = ["0.mp4", "1.mp4"]
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for seed, name in enumerate(names):
        drawing.write(recordings / name, seed=seed)
    view = Preprocessing(OutlineSettings(), ClipSettings(size=64, frames=20))
    fill.build(tmp_path / "store", find.list_recordings([recordings]), *view, processes=0)
    shutil.rmtree(recordings)
    results = tmp_path / "results"
    results.mkdir()
    table(results, names, paths=[str(tmp_path / "store")])
    client = client_of(results, answers)
    told = client.get("/api/clip/0").json()
    assert told["frames"] > 5
    assert "prepared clip" in told["note"]
    assert "flowing" in told["answers"]
    # The store has moved, too.
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert run.read(results).items[0].shown is None
    moved = run.read(results, [tmp_path / "elsewhere"])
    assert clips.make(moved.items[0].shown).frames == told["frames"]
    with pytest.raises(InputError, match="--recordings"):
        serve.serve(results, serve.ServeSettings(), print)


@pytest.mark.parametrize(
    ("module", "heavy"), [("serve", "matplotlib"), ("serve", "torch"), ("clips", "pandas")]
)
def test_the_page_and_what_makes_its_clips_start_quickly(module, heavy):
    code = f"import sys, stallscan.review.{module}; sys.exit('{heavy}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recording_that_cannot_be_read_says_why(client):
    numbers = {item["filename"]: item["item"] for item in queue(client)["items"]}
    told = client.get(f"/api/clip/{numbers['broken.mp4']}").raise_for_status().json()
    assert told["frames"] == 0
    assert "/" not in told["note"]
    assert len(told["note"]) > 20
    assert client.get(f"/api/sheet/{numbers['broken.mp4']}").status_code == 404


def test_blind_reviewers_see_neither_score_nor_call(folder, answers):
    client = client_of(folder, answers, blind=True)
    told = queue(client)["items"][0]
    assert told.keys() == {"item", "filename"}


def test_blind_reviewers_learn_nothing_from_names_and_orders(tmp_path, answers):
    client = many(tmp_path, answers, blind=True)
    answers.give("token-old", "of/another/group.mp4", "me", "stalled")
    told = queue(client, "stalled")
    assert told["order"] == "random"
    assert told["orders"] == ["random", "unseen", "disagreed"]
    assert [item["filename"] for item in told["items"]] == [
        f"recording {number}" for number in (1, 2, 3, 4)
    ]
    assert told["items"] == queue(client, "uncertain")["items"]
    said = give(client, told["items"][0]["item"], "stalled", "token-01").json()
    assert [given["filename"] for given in said["recent"]] == ["recording 1", "another recording"]
    easy = client.get("/api/easy", params={"order": "stalled"})
    for answer in (easy, client.get("/api/clip/7"), client.get("/api/queue?order=random")):
        assert "mp4" not in answer.raise_for_status().text
    for order in ("stalled", "uncertain"):
        with pytest.raises(InputError, match="--order"):
            serve.serve(tmp_path, serve.ServeSettings(order=order, blind=True), print)
