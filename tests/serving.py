"""The server of the review page, without a browser."""

import json
from concurrent.futures import Future

from fastapi.testclient import TestClient

from stallscan.review import clips, desk, run, server
from stallscan.review.clips import Cache
from stallscan.review.known import Known
from tests import predicted

ODD = "a <b>'\"&\n.mp4"
POST = {server.HEADER: "1"}


def now(path):
    future = Future()
    future.set_result(clips.make(path))
    return future


def client_of(folder, answers, known=None, look=None, **settings):
    about = desk.PageSettings(**{"reviewer": "me", "hosts": ("127.0.0.1",)} | settings)
    app = server.make_app(desk.Desk(run.read(folder), answers, Cache(now), about, known, look))
    return TestClient(app, base_url="http://127.0.0.1:8000")


def queue(client, order="unseen"):
    return client.get("/api/queue", params={"order": order}).raise_for_status().json()


def give(client, item, answer, token, **headers):
    body = {"item": item, "answer": answer, "token": token}
    return client.post("/api/answer", json=body, headers=POST | headers)


def post(client, path, **body):
    return client.post(path, json=body, headers=POST)


def sheet(*items, prefix="token"):
    return [{"item": n, "answer": "flowing", "token": f"{prefix}-{n:03}"} for n in items]


def many(tmp_path, answers, count=60, labels=None, **settings):
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


def table(folder, names, **about):
    rows = [predicted.prediction(name, score=0.2, call="flowing") for name in names]
    predicted.write_tables(folder, rows, [])
    (folder / "run.json").write_text(json.dumps(about))
