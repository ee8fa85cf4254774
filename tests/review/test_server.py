"""The server of the review page, without a browser."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from stallscan.clips import fill
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.review import clips, desk, run, serve, server
from stallscan.review.answers import ANSWERS, Answers, New
from stallscan.review.clips import Cache
from stallscan.review.known import Known
from stallscan.vessels.outline import OutlineSettings
from tests import drawing, predicted

ODD = "a <b>'\"&\n.mp4"
POST = {server.HEADER: "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("recordings")
    for index, name in enumerate(["0.mp4", "1.mp4", ODD]):
        drawing.write(made / name, seed=index, count=7 + index)
    (made / "broken.mp4").write_bytes(b"no video")
    return made


def _now(path):
    future = Future()
    future.set_result(clips.make(path))
    return future


@pytest.fixture
def answers(tmp_path):
    return Answers(tmp_path)


@pytest.fixture
def client(folder, answers):
    return _client(folder, answers)


def _client(folder, answers, known=None, look=None, **settings):
    about = desk.PageSettings(**{"reviewer": "me", "hosts": ("127.0.0.1",)} | settings)
    app = server.make_app(desk.Desk(run.read(folder), answers, Cache(_now), about, known, look))
    return TestClient(app, base_url="http://127.0.0.1:8000")


def _queue(client, order="unseen"):
    return client.get("/api/queue", params={"order": order}).raise_for_status().json()


def _give(client, item, answer, token, **headers):
    body = {"item": item, "answer": answer, "token": token}
    return client.post("/api/answer", json=body, headers=POST | headers)


def test_where_the_net_looked_is_found_once_and_not_for_what_cannot_be_read(folder, answers):
    seen = []

    def look(path):
        seen.append(path.name)
        return b"picture"

    client = _client(folder, answers, look=look)
    assert client.get("/api/clip/0").json()["looked"]
    for _ in range(2):
        assert client.get("/api/looked/0").raise_for_status().content == b"picture"
    broken = [item["item"] for item in _queue(client)["items"] if "broken" in item["filename"]]
    assert not client.get(f"/api/clip/{broken[0]}").json()["looked"]
    assert client.get(f"/api/looked/{broken[0]}").status_code == 404
    assert seen == ["0.mp4"]


def test_blind_reviewers_do_not_see_where_the_net_looked(folder, answers):
    client = _client(folder, answers, look=lambda _path: b"picture", blind=True)
    assert not client.get("/api/clip/0").json()["looked"]
    assert client.get("/api/looked/0").status_code == 404


def test_a_sheet_has_every_frame_and_the_outline_lies_on_it(client, folder):
    told = client.get("/api/clip/0").raise_for_status().json()
    assert (told["filename"], told["frames"], told["note"]) == ("0.mp4", 7, "")
    sheet = client.get("/api/sheet/0").raise_for_status()
    assert sheet.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(sheet.content, np.uint8), cv2.IMREAD_GRAYSCALE)
    rows = -(-told["frames"] // told["columns"])
    assert image.shape == (rows * told["height"], told["columns"] * told["width"])
    (line,) = told["outline"]
    points = np.array(line)
    assert (points > 0).all()
    assert (points.max(axis=0) < (told["width"], told["height"])).all()
    assert np.ptp(points, axis=0).min() > 10
    evidence = client.get("/api/evidence/0").raise_for_status()
    assert cv2.imdecode(np.frombuffer(evidence.content, np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_recording_that_cannot_be_read_says_why(client):
    numbers = {item["filename"]: item["item"] for item in _queue(client)["items"]}
    told = client.get(f"/api/clip/{numbers['broken.mp4']}").raise_for_status().json()
    assert told["frames"] == 0
    assert "/" not in told["note"]
    assert len(told["note"]) > 20
    assert client.get(f"/api/sheet/{numbers['broken.mp4']}").status_code == 404


def test_answers_leave_the_queue_and_undo_brings_them_back(client, answers):
    first = _queue(client)
    assert (first["left"], first["answered"], first["total"]) == (4, 0, 4)
    item = first["items"][0]
    said = _give(client, item["item"], "stalled", "token-01").raise_for_status().json()
    assert said["recent"] == [
        {"item": item["item"], "filename": item["filename"], "answer": "stalled"}
    ]
    _give(client, item["item"], "stalled", "token-01").raise_for_status()  # not heard: once more
    after = _queue(client)
    assert (after["left"], after["answered"]) == (3, 1)
    assert [given.answer for given in answers.current()] == ["stalled"]
    undone = client.post("/api/undo", json={"token": "token-02"}, headers=POST).json()
    assert undone == {"items": [item], "recent": []}
    assert _queue(client)["left"] == 4


def test_reviewers_have_queues_of_their_own(client, answers):
    _give(client, 0, "stalled", "token-01")
    named = client.post("/api/reviewer", json={"name": " Zoë  <b>\n"}, headers=POST)
    assert named.json() == {"reviewer": "Zoë <b>"}
    assert _queue(client, "random")["reviewer"] == "Zoë <b>"
    assert _queue(client, "random")["left"] == 4
    _give(client, 0, "flowing", "token-02")
    assert {given.reviewer for given in answers.current()} == {"me", "Zoë <b>"}
    assert _queue(client, "disagreed")["items"] == []  # the last word was theirs
    client.post("/api/reviewer", json={"name": "me"}, headers=POST)
    assert [item["item"] for item in _queue(client, "disagreed")["items"]] == [0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"item": 99, "answer": "stalled", "token": "token-01"}, 404),
        ({"item": -1, "answer": "stalled", "token": "token-01"}, 404),
        ({"item": 0, "answer": "dead", "token": "token-01"}, 422),
        ({"item": 0, "answer": "stalled", "token": "short"}, 422),
        ({"item": "../0", "answer": "stalled", "token": "token-01"}, 422),
        ({"item": 0, "answer": "stalled"}, 422),
    ],
)
def test_wrong_answers_are_refused_and_save_nothing(client, answers, body, status):
    assert client.post("/api/answer", json=body, headers=POST).status_code == status
    assert answers.history() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {server.HEADER: "0"},
    ],
)
def test_other_sites_can_neither_read_nor_write(client, answers, headers):
    assert _give(client, 0, "stalled", "token-01", **headers).status_code == 403
    if server.HEADER not in headers:
        refused = client.get("/api/queue", params={"order": "random"}, headers=headers)
        assert refused.status_code == 403
        assert "0.mp4" not in refused.text
    assert answers.history() == []


@pytest.mark.parametrize("path", ["/api/queue?order=random", "/api/sheet/0", "/api/reviewers"])
def test_a_server_for_other_machines_wants_its_token(folder, answers, path):
    client = _client(folder, answers, token="secret-é")
    for given in (None, "wrong", "secret", "sécret-é"):
        headers = {} if given is None else {server.TOKEN: given.encode()}
        assert client.get(path, headers=headers).status_code == 403
    assert client.get(f"{path}{'&' if '?' in path else '?'}token=secret-é").status_code == 403
    assert _give(client, 0, "stalled", "token-01").status_code == 403
    right = _client(folder, answers, token="secret")
    assert right.get(path, headers={server.TOKEN: "secret"}).status_code == 200
    # Browsers send cookies to every port of a computer, so the token must not be one.
    assert "set-cookie" not in right.get("/").headers
    right.cookies.set(server.TOKEN, "secret")
    assert right.get(path).status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/answer", '{"item": 0, "answer": "stalled", "token": "token-01", "seconds": NaN}'),
        ("/api/answer", '{"item": 0, "answer": "stalled", "token": "token-01", "seconds": 1e999}'),
        ("/api/answer", '{"item": 0, "answer": "stalled", "token": "token-\\ud800"}'),
        ("/api/undo", '{"token": "token-\\ud800"}'),
        ("/api/undo", '{"token": "token/-01"}'),
        ("/api/reviewer", '{"name": "\\ud800"}'),
    ],
)
def test_what_cannot_be_saved_is_refused_and_no_fault(client, answers, path, body):
    headers = POST | {"content-type": "application/json"}
    assert client.post(path, content=body, headers=headers).status_code in (400, 422)
    assert answers.history() == []


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("  Ann  Lee ", "Ann Lee"),
        ('=HYPERLINK("http://evil.example")', 'HYPERLINK("http://evil.example")'),
        ("@+-ann", "ann"),
        ("a\x1b[31mnn\r\nbob", "a[31mnnbob"),
        ("\u202e", "me"),
    ],
)
def test_names_are_saved_without_formulas_and_control_characters(client, name, saved):
    body = json.dumps({"name": name})
    headers = POST | {"content-type": "application/json"}
    said = client.post("/api/reviewer", content=body, headers=headers).raise_for_status()
    assert said.json() == {"reviewer": saved}
    assert _queue(client)["reviewer"] == saved


@pytest.mark.parametrize(
    "path",
    [
        "/api/clip/../../etc/passwd",
        "/api/clip/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/clip//etc/passwd",
        "/api/sheet/0%00.png",
        "/..%2freview.sqlite",
        "/review.sqlite",
        "/docs",
        "/openapi.json",
        "/api/clip/1e9",
    ],
)
def test_no_path_leads_out(client, path):
    assert client.get(path).status_code in (404, 422)


def test_nothing_is_loaded_from_elsewhere_and_names_are_text(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("review.html", "review.css", "review.js", "sheet.js"):
        text = resources.files("stallscan.assets").joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|innerHTML|outerHTML|insertAdjacent|eval\(", text), (
            name
        )
    assert any("<b>" in item["filename"] for item in _queue(client)["items"])


def test_blind_reviewers_see_neither_score_nor_call(folder, answers):
    client = _client(folder, answers, blind=True)
    told = _queue(client)["items"][0]
    assert told.keys() == {"item", "filename"}


def test_blind_reviewers_learn_nothing_from_names_and_orders(tmp_path, answers):
    client = _many(tmp_path, answers, blind=True)
    answers.give("token-old", "of/another/group.mp4", "me", "stalled")
    told = _queue(client, "stalled")
    assert told["order"] == "random"
    assert told["orders"] == ["random", "unseen", "disagreed"]
    assert [item["filename"] for item in told["items"]] == [
        f"recording {number}" for number in (1, 2, 3, 4)
    ]
    assert told["items"] == _queue(client, "uncertain")["items"]
    said = _give(client, told["items"][0]["item"], "stalled", "token-01").json()
    assert [given["filename"] for given in said["recent"]] == ["recording 1", "another recording"]
    easy = client.get("/api/easy", params={"order": "stalled"})
    for answer in (easy, client.get("/api/clip/7"), client.get("/api/queue?order=random")):
        assert "mp4" not in answer.raise_for_status().text
    for order in ("stalled", "uncertain"):
        with pytest.raises(InputError, match="--order"):
            serve.serve(tmp_path, serve.ServeSettings(order=order, blind=True), print)


def _post(client, path, **body):
    return client.post(path, json=body, headers=POST)


def _sheet(*items, prefix="token"):
    return [{"item": n, "answer": "flowing", "token": f"{prefix}-{n:03}"} for n in items]


def test_a_contact_sheet_is_saved_and_taken_back_as_one(client, answers):
    shown = client.get("/api/easy", params={"order": "unseen"}).raise_for_status().json()
    assert (len(shown["items"]), shown["next"], shown["left"]) == (4, [], 4)
    for _ in range(2):  # not heard: once more
        said = _post(client, "/api/answers", answers=_sheet(0, 1, 2), sheet="sheet-01")
        assert len(said.raise_for_status().json()["recent"]) == 3
    assert len(answers.history()) == 3
    assert client.get("/api/easy", params={"order": "unseen"}).json()["left"] == 1
    undone = _post(client, "/api/undo", token="undo-001").json()
    assert [item["item"] for item in undone["items"]] == [0, 1, 2]
    assert undone["recent"] == []
    assert answers.current() == []


@pytest.mark.parametrize(
    ("given", "status"),
    [(_sheet(0, 99), 404), ([], 422), (_sheet(*range(51)), 422), ([{"item": 0}], 422)],
)
def test_a_sheet_with_a_wrong_answer_saves_nothing(client, answers, given, status):
    assert _post(client, "/api/answers", answers=given, sheet="sheet-01").status_code == status
    assert answers.history() == []


def _many(tmp_path, answers, count=60, labels=None, **settings):
    """Return a client of a run of so many recordings, a third called stalled."""
    items = tuple(
        run.Item(
            f"{n}.mp4",
            tmp_path / f"{n}.mp4",
            "stalled" if 3 * n >= 2 * count else "flowing",
            score=n / count,
            threshold=0.6,
        )
        for n in range(count)
    )
    known = labels and Known(labels, 0.5)
    drawn = Future()
    drawn.set_result(clips.Clip(sheet=b"sheet", frames=1))
    about = desk.PageSettings(**{"reviewer": "me", "hosts": ("127.0.0.1",)} | settings)
    cache = Cache(lambda _path: drawn)
    app = server.make_app(desk.Desk(run.Run(tmp_path, items), answers, cache, about, known))
    return TestClient(app, base_url="http://127.0.0.1:8000")


def test_the_sheet_begins_with_the_surest_flows(tmp_path, answers):
    client = _many(tmp_path, answers)
    shown = client.get("/api/easy", params={"order": "stalled"}).json()
    assert [item["item"] for item in shown["items"] + shown["next"]] == list(range(24))
    assert shown["left"] == 40


def test_the_random_sample_says_how_far_it_is_and_then_what_it_found(tmp_path, answers):
    client = _many(tmp_path, answers)
    assert _queue(client, "uncertain")["check"] is None
    check = _queue(client, "random")["check"]
    assert (check["calls"], check["checked"]) == (60, 0)
    assert 30 < check["needed"] < 60
    assert "wrong" not in check
    for number in range(60):
        item = _queue(client, "random")["items"][0]
        other = {"stalled": "flowing", "flowing": "stalled"}[item["call"]]
        answer = other if number % 10 == 0 else item["call"]
        _give(client, item["item"], answer, f"token-{number:03}").raise_for_status()
    check = _queue(client, "random")["check"]
    assert (check["checked"], check["other"]) == (60, 0)
    assert check["wrong"][0] == pytest.approx(0.1)
    assert _queue(client, "random")["left"] == 0


def test_known_recordings_look_like_others_and_rate_the_reviewer(tmp_path, answers):
    labels = {f"{number}.mp4": number >= 45 for number in range(30, 60)}
    client = _many(tmp_path, answers, labels=labels, blind=True)
    plain = _many(tmp_path, answers, blind=True)
    first = _queue(client, "random")
    assert first["own"] == {"sensitivity": None, "specificity": None}
    assert _queue(plain, "random")["own"] is None
    assert first["left"] == _queue(plain, "random")["left"]
    assert {tuple(item) for item in first["items"]} == {("item", "filename")}
    for number in range(60):
        item = _queue(client, "random")["items"][0]["item"]
        answer = "stalled" if labels.get(f"{item}.mp4") else "flowing"
        _give(client, item, answer, f"token-{number:03}").raise_for_status()
    own = _queue(client, "random")["own"]
    assert (own["sensitivity"]["right"], own["sensitivity"]["of"]) == (15, 15)
    assert own["specificity"]["share"][0] == 1.0
    assert own["specificity"]["share"][1] < 0.85
    assert sum(given.is_check for given in answers.current()) == 30


def test_the_agreement_of_reviewers(client):
    for name, said in (("ann", "flowing"), ("bob", "stalled")):
        client.post("/api/reviewer", json={"name": name}, headers=POST)
        for item in range(4):
            answer = said if item == 3 else ("flowing", "stalled")[item % 2]
            _give(client, item, answer, f"token-{name}-{item}").raise_for_status()
    told = client.get("/api/reviewers").raise_for_status().json()
    assert [(each["name"], each["answered"]) for each in told["reviewers"]] == [
        ("ann", 4),
        ("bob", 4),
    ]
    (pair,) = told["pairs"]
    assert (pair["first"], pair["second"], pair["both"]) == ("ann", "bob", 4)
    assert pair["low"] < pair["kappa"] < pair["high"]


def test_requests_are_quick_in_a_run_of_ten_thousand(tmp_path, answers):
    """Goal: 20 ms; this allows for slow and busy machines, and finds work that grows with rows."""
    count = 10_000
    client = _many(tmp_path, answers, count)
    news = [New(f"token-{n:06}", f"{n}.mp4", "eve", "flowing") for n in range(count)]
    answers.give_all(news)
    _queue(client, "uncertain")  # reads them
    for number, order in enumerate(("uncertain", "random", "unseen", "disagreed") * 3):
        start = time.perf_counter()
        _queue(client, order)
        _give(client, number, "stalled", f"token-{number}-me").raise_for_status()
        took = time.perf_counter() - start
        assert took < 0.5


def _table(folder, names, **about):
    rows = [predicted.prediction(name, score=0.2, call="flowing") for name in names]
    predicted.write_tables(folder, rows, [])
    (folder / "run.json").write_text(json.dumps(about))


def test_what_cannot_be_shown_takes_no_call(folder, answers, tmp_path):
    _table(tmp_path, ["0.mp4", "gone.mp4", "broken.mp4"], paths=[str(folder)])
    client = _client(tmp_path, answers)
    told = _queue(client, "random")
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
        given = _give(client, item, answer, f"token-{item}-{answer}")
        assert given.status_code == status, (item, answer)
    sheet = _sheet(0, 2)
    assert _post(client, "/api/answers", answers=sheet, sheet="sheet-01").status_code == 409
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
    _table(results, names, paths=[str(tmp_path / "store")])
    client = _client(results, answers)
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


def test_answers_do_not_wait_for_where_the_net_looked(folder, answers):
    started, go_on, seen = threading.Event(), threading.Event(), []

    def look(path):
        seen.append(path.name)
        started.set()
        assert go_on.wait(20)
        return b"picture"

    about = desk.PageSettings(reviewer="me")
    table = desk.Desk(run.read(folder), answers, Cache(_now), about, None, look)
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


def test_a_server_for_other_machines_asks_for_the_name(folder, answers):
    client = _client(folder, answers, token="secret", reviewer="")
    client.headers[server.TOKEN] = "secret"
    assert _queue(client)["reviewer"] == ""
    assert _give(client, 0, "stalled", "token-01").status_code == 409
    assert _post(client, "/api/undo", token="token-02").status_code == 409
    assert _post(client, "/api/reviewer", name=" = ").status_code == 422
    _post(client, "/api/reviewer", name="ann").raise_for_status()
    _give(client, 0, "stalled", "token-03").raise_for_status()
    assert [given.reviewer for given in answers.current()] == ["ann"]


@pytest.mark.parametrize(
    ("host", "token", "status"),
    [
        ("lab-pc:8000", "secret", 200),
        ("LAB-PC", "secret", 200),
        ("192.168.7.9:8000", "secret", 200),
        ("[fe80::1]:8000", "secret", 200),
        ("192.168.7.9.evil.example", "secret", 403),
        ("192.168.7.9", "", 403),
    ],
)
def test_the_names_and_addresses_of_this_computer_are_known(folder, answers, host, token, status):
    client = _client(folder, answers, token=token, hosts=("LAB-PC",))
    headers = {"host": host, server.TOKEN: token, "origin": f"http://{host.lower()}"}
    assert client.get("/api/queue?order=random", headers=headers).status_code == status


def test_the_reason_why_an_answer_is_not_saved_is_told(client, answers):
    answers.path.unlink()
    answers.path.mkdir()
    refused = _give(client, 0, "stalled", "token-01")
    assert refused.status_code == 503
    assert "review.sqlite" in refused.text


def test_the_page_needs_no_plots():
    code = "import sys, stallscan.review.serve; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
