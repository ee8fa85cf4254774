"""The server of the review page, without a browser."""

import json
import re
import time
from importlib import resources

import cv2
import numpy as np
import pytest

from stallscan.review import server
from stallscan.review.answers import New
from tests.serving import POST, client_of, give, many, post, queue, sheet


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


def test_answers_leave_the_queue_and_undo_brings_them_back(client, answers):
    first = queue(client)
    assert (first["left"], first["answered"], first["total"]) == (4, 0, 4)
    item = first["items"][0]
    said = give(client, item["item"], "stalled", "token-01").raise_for_status().json()
    assert said["recent"] == [
        {"item": item["item"], "filename": item["filename"], "answer": "stalled"}
    ]
    give(client, item["item"], "stalled", "token-01").raise_for_status()  # not heard: once more
    after = queue(client)
    assert (after["left"], after["answered"]) == (3, 1)
    assert [given.answer for given in answers.current()] == ["stalled"]
    undone = client.post("/api/undo", json={"token": "token-02"}, headers=POST).json()
    assert undone == {"items": [item], "recent": []}
    assert queue(client)["left"] == 4


def test_reviewers_have_queues_of_their_own(client, answers):
    give(client, 0, "stalled", "token-01")
    named = client.post("/api/reviewer", json={"name": " Zoë  <b>\n"}, headers=POST)
    assert named.json() == {"reviewer": "Zoë <b>"}
    assert queue(client, "random")["reviewer"] == "Zoë <b>"
    assert queue(client, "random")["left"] == 4
    give(client, 0, "flowing", "token-02")
    assert {given.reviewer for given in answers.current()} == {"me", "Zoë <b>"}
    assert queue(client, "disagreed")["items"] == []  # the last word was theirs
    client.post("/api/reviewer", json={"name": "me"}, headers=POST)
    assert [item["item"] for item in queue(client, "disagreed")["items"]] == [0]


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
    assert answers.since(0) == []


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
    assert give(client, 0, "stalled", "token-01", **headers).status_code == 403
    if server.HEADER not in headers:
        refused = client.get("/api/queue", params={"order": "random"}, headers=headers)
        assert refused.status_code == 403
        assert "0.mp4" not in refused.text
    assert answers.since(0) == []


@pytest.mark.parametrize("path", ["/api/queue?order=random", "/api/sheet/0", "/api/reviewers"])
def test_a_server_for_other_machines_wants_its_token(folder, answers, path):
    client = client_of(folder, answers, token="secret-é")
    for given in (None, "wrong", "secret", "sécret-é"):
        headers = {} if given is None else {server.TOKEN: given.encode()}
        assert client.get(path, headers=headers).status_code == 403
    assert client.get(f"{path}{'&' if '?' in path else '?'}token=secret-é").status_code == 403
    assert give(client, 0, "stalled", "token-01").status_code == 403
    right = client_of(folder, answers, token="secret")
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
    assert answers.since(0) == []


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
    assert queue(client)["reviewer"] == saved


def test_a_name_that_is_spelled_otherwise_is_the_same_reviewer(client, answers):
    for number, name in enumerate(["Jos\u00e9", "Jose\u0301", "JOSE\u0301", "Josef"]):
        saved = post(client, "/api/reviewer", name=name).raise_for_status().json()["reviewer"]
        assert saved == ("Josef" if name == "Josef" else "Jos\u00e9")
        give(client, 0, "flowing", f"token-{number:03}").raise_for_status()
    assert [given.reviewer for given in answers.current()] == ["Jos\u00e9", "Josef"]
    # A browser may have kept the name for longer than the answers, and so may a tab.
    headers = {server.REVIEWER: "JOSE%CC%81%20"}
    told = client.get("/api/queue?order=random", headers=headers).json()
    assert (told["reviewer"], told["answered"]) == ("Jos\u00e9", 1)
    client.cookies.clear()
    client.cookies.set(server.COOKIE, "jose%CC%81")
    assert queue(client)["reviewer"] == "Jos\u00e9"


def test_a_tab_answers_for_the_name_that_it_shows(client, answers):
    post(client, "/api/reviewer", name="ann")
    asked = {server.REVIEWER: "Jos%C3%A9"}  # another tab
    give(client, 0, "flowing", "token-001", **asked).raise_for_status()
    assert [given.reviewer for given in answers.current()] == ["Jos\u00e9"]
    told = client.get("/api/queue?order=random", headers=asked).json()
    assert (told["reviewer"], told["answered"]) == ("Jos\u00e9", 1)
    undone = client.post("/api/undo", json={"token": "token-002"}, headers=POST | asked).json()
    assert len(undone["items"]) == 1
    assert answers.current() == []


def test_an_answer_is_saved_although_the_page_was_left_open_for_days(client, answers):
    body = {"item": 0, "answer": "flowing", "token": "token-001", "seconds": 3e5}
    post(client, "/api/answer", **body).raise_for_status()
    assert [given.seconds for given in answers.current()] == [3e5]


def test_a_page_of_another_run_is_refused(client, answers, folder, tmp_path):
    run = queue(client)["run"]
    give(client, 0, "flowing", "token-001", **{server.RUN: run}).raise_for_status()
    # As after a restart at the same port: the numbers are of other recordings now.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.mp4").write_bytes((folder / "1.mp4").read_bytes())
    other = client_of(tmp_path / "other", answers)
    assert queue(other)["run"] != run
    refused = give(other, 0, "stalled", "token-002", **{server.RUN: run})
    assert refused.status_code == 409
    assert "Reload" in refused.text
    assert other.get("/api/clip/0", headers={server.RUN: run}).status_code == 409
    assert [given.answer for given in answers.current()] == ["flowing"]
    # What a browser has kept of one run is not shown for another.
    kept = client.get("/api/sheet/0", headers={server.RUN: run})
    assert "max-age" in kept.headers["cache-control"]
    assert kept.headers["vary"] == server.RUN


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
    assert any("<b>" in item["filename"] for item in queue(client)["items"])


def test_a_contact_sheet_is_saved_and_taken_back_as_one(client, answers):
    shown = client.get("/api/easy", params={"order": "unseen"}).raise_for_status().json()
    assert (len(shown["items"]), shown["next"], shown["left"]) == (4, [], 4)
    for _ in range(2):  # not heard: once more
        said = post(client, "/api/answers", answers=sheet(0, 1, 2), sheet="sheet-01")
        assert len(said.raise_for_status().json()["recent"]) == 3
    assert len(answers.since(0)) == 3
    assert client.get("/api/easy", params={"order": "unseen"}).json()["left"] == 1
    undone = post(client, "/api/undo", token="undo-001").json()
    assert [item["item"] for item in undone["items"]] == [0, 1, 2]
    assert undone["recent"] == []
    assert answers.current() == []


@pytest.mark.parametrize(
    ("given", "status"),
    [(sheet(0, 99), 404), ([], 422), (sheet(*range(51)), 422), ([{"item": 0}], 422)],
)
def test_a_sheet_with_a_wrong_answer_saves_nothing(client, answers, given, status):
    assert post(client, "/api/answers", answers=given, sheet="sheet-01").status_code == status
    assert answers.since(0) == []


def test_the_sheet_begins_with_the_surest_flows(tmp_path, answers):
    client = many(tmp_path, answers)
    shown = client.get("/api/easy", params={"order": "stalled"}).json()
    assert [item["item"] for item in shown["items"] + shown["next"]] == list(range(24))
    assert shown["left"] == 40


def test_the_random_sample_says_how_far_it_is_and_then_what_it_found(tmp_path, answers):
    client = many(tmp_path, answers)
    assert queue(client, "uncertain")["check"] is None
    check = queue(client, "random")["check"]
    assert (check["calls"], check["checked"]) == (60, 0)
    assert 30 < check["needed"] < 60
    assert "wrong" not in check
    for number in range(60):
        item = queue(client, "random")["items"][0]
        other = {"stalled": "flowing", "flowing": "stalled"}[item["call"]]
        answer = other if number % 10 == 0 else item["call"]
        give(client, item["item"], answer, f"token-{number:03}").raise_for_status()
    check = queue(client, "random")["check"]
    assert (check["checked"], check["other"]) == (60, 0)
    assert check["wrong"][0] == pytest.approx(0.1)
    assert queue(client, "random")["left"] == 0


def test_known_recordings_look_like_others_and_rate_the_reviewer(tmp_path, answers):
    labels = {f"{number}.mp4": number >= 45 for number in range(30, 60)}
    client = many(tmp_path, answers, labels=labels, blind=True)
    plain = many(tmp_path, answers, blind=True)
    first = queue(client, "random")
    assert first["own"] == {"sensitivity": None, "specificity": None}
    assert queue(plain, "random")["own"] is None
    assert first["left"] == queue(plain, "random")["left"]
    assert {tuple(item) for item in first["items"]} == {("item", "filename")}
    for number in range(60):
        item = queue(client, "random")["items"][0]["item"]
        answer = "stalled" if labels.get(f"{item}.mp4") else "flowing"
        give(client, item, answer, f"token-{number:03}").raise_for_status()
    own = queue(client, "random")["own"]
    assert (own["sensitivity"]["right"], own["sensitivity"]["of"]) == (15, 15)
    assert own["specificity"]["share"][0] == 1.0
    assert own["specificity"]["share"][1] < 0.85
    assert sum(given.is_check for given in answers.current()) == 30


def test_the_agreement_of_reviewers(client):
    for name, said in (("ann", "flowing"), ("bob", "stalled")):
        client.post("/api/reviewer", json={"name": name}, headers=POST)
        for item in range(4):
            answer = said if item == 3 else ("flowing", "stalled")[item % 2]
            give(client, item, answer, f"token-{name}-{item}").raise_for_status()
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
    client = many(tmp_path, answers, count)
    news = [New(f"token-{n:06}", f"{n}.mp4", "eve", "flowing") for n in range(count)]
    answers.give_all(news)
    queue(client, "uncertain")  # reads them
    for number, order in enumerate(("uncertain", "random", "unseen", "disagreed") * 3):
        start = time.process_time()
        queue(client, order)
        give(client, number, "stalled", f"token-{number}-me").raise_for_status()
        took = time.process_time() - start
        assert took < 0.5


def test_a_server_for_other_machines_asks_for_the_name(folder, answers):
    client = client_of(folder, answers, token="secret", reviewer="")
    client.headers[server.TOKEN] = "secret"
    assert queue(client)["reviewer"] == ""
    assert give(client, 0, "stalled", "token-01").status_code == 409
    assert post(client, "/api/undo", token="token-02").status_code == 409
    assert post(client, "/api/reviewer", name=" = ").status_code == 422
    post(client, "/api/reviewer", name="ann").raise_for_status()
    give(client, 0, "stalled", "token-03").raise_for_status()
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
    client = client_of(folder, answers, token=token, hosts=("LAB-PC",))
    headers = {"host": host, server.TOKEN: token, "origin": f"http://{host.lower()}"}
    assert client.get("/api/queue?order=random", headers=headers).status_code == status


def test_the_reason_why_an_answer_is_not_saved_is_told(client, answers):
    answers.path.unlink()
    answers.path.mkdir()
    refused = give(client, 0, "stalled", "token-01")
    assert refused.status_code == 503
    assert "review.sqlite" in refused.text
