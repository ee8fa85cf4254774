"""The server of the review page: clips and queues out, answers in.

It serves one folder to browsers on this machine. Items have numbers, so no path ever comes from a
browser. A page of another site can neither read nor write: hosts and origins other than its own are
refused, and so are posts without a header that only this page's script sends.
"""

import hmac
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

from stallscan import __version__
from stallscan.review.answers import ANSWERS, LONGEST_NAME, Answer, Answers, Given
from stallscan.review.clips import Cache, Clip
from stallscan.review.queues import ORDERS, Order, arrange
from stallscan.review.run import Item, Run

AHEAD = 4  # clips that are named at a time: the present one, and those to fetch beforehand
SHOWN = 10  # recent answers
COOKIE, TOKEN = "stallscan-reviewer", "stallscan-token"
HEADER = "x-stallscan"  # of every request that changes something
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# The page loads nothing from elsewhere, and nothing else may load it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
Next = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class PageSettings:
    """How the page is served.

    Attributes
    ----------
    reviewer : str
        Name of those who do not give one.
    order : str
        The first order.
    blind : bool
        Whether score and call are hidden.
    hosts : tuple of str
        Names of this server in an address, without the port.
    token : str
        What a browser must present; empty: nothing.
    """

    reviewer: str
    order: Order = "uncertain"
    blind: bool = False
    hosts: tuple[str, ...] = LOOPBACK
    token: str = ""


class NewAnswer(BaseModel):
    """What the page posts."""

    item: int
    answer: Answer
    # Chosen by the page, so that it can post again when it is not sure whether it was heard.
    token: Annotated[str, Field(min_length=8, max_length=80)]
    seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None


Token = Annotated[str, Body(min_length=8, max_length=80, embed=True)]
Name = Annotated[str, Body(max_length=LONGEST_NAME, embed=True)]


def make_app(run: Run, answers: Answers, clips: Cache, settings: PageSettings) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    run : Run
        What is reviewed.
    answers : Answers
        Where answers go.
    clips : Cache
        Where clips come from.
    settings : PageSettings
        How it is served.
    """
    app = FastAPI(title="stallscan review", docs_url=None, redoc_url=None, openapi_url=None)
    desk = _Desk(run, answers, clips, settings)

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        refused = _refuse(request, settings)
        response = refused or await call_next(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        response.headers["cross-origin-resource-policy"] = "same-origin"
        response.headers.setdefault("cache-control", "no-store")
        return response

    @app.get("/")
    def page(request: Request) -> Response:
        response = _file("")
        if settings.token and request.query_params.get("token"):
            # `_refuse` has compared it. From now on a cookie presents it.
            response.set_cookie(TOKEN, settings.token, httponly=True, samesite="strict")
        return response

    @app.get("/review.js")
    def script() -> Response:
        return _file("review.js")

    @app.get("/review.css")
    def style() -> Response:
        return _file("review.css")

    @app.get("/api/queue")
    def queue(request: Request, order: Order) -> dict[str, Any]:
        return desk.describe(_reviewer(request, settings), order)

    @app.get("/api/clip/{item}")
    def clip(item: int) -> dict[str, Any]:
        return desk.describe_clip(item)

    @app.get("/api/sheet/{item}")
    def sheet(item: int) -> Response:
        return _image(desk.clip(item).sheet, "image/jpeg")

    @app.get("/api/evidence/{item}")
    def evidence(item: int) -> Response:
        return _image(desk.clip(item).evidence, "image/png")

    @app.post("/api/answer")
    def give(request: Request, new: NewAnswer) -> dict[str, Any]:
        item = desk.item(new.item)
        reviewer = _reviewer(request, settings)
        answers.give(new.token, item.filename, reviewer, new.answer, new.seconds)
        return {"recent": desk.recent(reviewer)}

    @app.post("/api/undo")
    def undo(request: Request, token: Token) -> dict[str, Any]:
        reviewer = _reviewer(request, settings)
        given = answers.undo(token, reviewer)
        return {
            "item": None if given is None else desk.number(given.filename),
            "recent": desk.recent(reviewer),
        }

    @app.post("/api/reviewer")
    def rename(name: Name, response: Response) -> dict[str, str]:
        chosen = " ".join(name.split()) or settings.reviewer
        quoted = urllib.parse.quote(chosen)
        response.set_cookie(COOKIE, quoted, httponly=True, samesite="strict", max_age=31_536_000)
        return {"reviewer": chosen}

    return app


class _Desk:
    """What the page is told."""

    def __init__(self, run: Run, answers: Answers, clips: Cache, settings: PageSettings) -> None:
        self._run, self._answers, self._clips = run, answers, clips
        self._settings = settings
        self._numbers = {item.filename: number for number, item in enumerate(run.items)}

    def number(self, filename: str) -> int | None:
        """Return the number of a recording; None if it is no longer there."""
        return self._numbers.get(filename)

    def item(self, number: int) -> Item:
        """Return an item by its number."""
        if not 0 <= number < len(self._run.items):
            raise HTTPException(404, "there is no such recording")
        return self._run.items[number]

    def clip(self, number: int) -> Clip:
        """Return a clip by the number of its item."""
        return self._clips.ask(number, self.item(number).path).result()

    def describe(self, reviewer: str, order: Order) -> dict[str, Any]:
        """Say what is next, and how far the reviewer is."""
        current = self._answers.current()
        numbers = arrange(self._run.items, current, reviewer, order)
        ahead = numbers[:AHEAD]
        for number in ahead:
            self._clips.ask(number, self.item(number).path)
        mine = {given.filename for given in current if given.reviewer == reviewer}
        return {
            "items": [self._describe_item(number) for number in ahead],
            "left": len(numbers),
            "answered": len(mine & self._numbers.keys()),
            "total": len(self._run.items),
            "reviewer": reviewer,
            "order": order,
            "orders": ORDERS,
            "answers": ANSWERS,
            "blind": self._settings.blind,
            "folder": self._run.folder.resolve().name,
            "version": __version__,
            "recent": self.recent(reviewer),
        }

    def describe_clip(self, number: int) -> dict[str, Any]:
        """Describe an item and its clip."""
        clip = self.clip(number)
        return self._describe_item(number) | {
            "frames": clip.frames,
            "columns": clip.columns,
            "width": clip.width,
            "height": clip.height,
            "outline": clip.outline,
            "note": clip.note,
            "evidence": bool(clip.evidence),
        }

    def recent(self, reviewer: str) -> list[dict[str, Any]]:
        """Return the last answers of a reviewer, newest first."""
        given = self._answers.recent(reviewer, SHOWN)
        return [self._describe_answer(each) for each in given]

    def _describe_answer(self, given: Given) -> dict[str, Any]:
        number = self.number(given.filename)
        return {"item": number, "filename": given.filename, "answer": given.answer}

    def _describe_item(self, number: int) -> dict[str, Any]:
        item = self.item(number)
        told: dict[str, Any] = {"item": number, "filename": item.filename}
        if not self._settings.blind:
            told |= {"call": item.call, "score": item.score, "reason": item.reason}
        return told


def _reviewer(request: Request, settings: PageSettings) -> str:
    name = urllib.parse.unquote(request.cookies.get(COOKIE, ""))
    return " ".join(name.split())[:LONGEST_NAME] or settings.reviewer


def _refuse(request: Request, settings: PageSettings) -> Response | None:
    """Return the refusal of a request that is not from this server's own page."""
    host = request.headers.get("host", "")
    if re.sub(r":\d+$", "", host) not in settings.hosts:
        return _no("this name of the server is not known to it")
    origin = request.headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return _no("requests of other sites are refused")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return _no("requests of other sites are refused")
    if request.method not in ("GET", "HEAD") and request.headers.get(HEADER) != "1":
        return _no("only the review page may change something")
    if settings.token:
        given = request.cookies.get(TOKEN) or ""
        if request.url.path == "/":
            given = request.query_params.get("token") or given
        if not hmac.compare_digest(given.encode(), settings.token.encode()):
            return _no("open the address that 'stallscan review' printed, with its token")
    return None


def _no(reason: str) -> Response:
    return Response(f"Refused: {reason}.\n", 403, media_type="text/plain")


def _file(name: str) -> Response:
    content = resources.files("stallscan.assets").joinpath(name or "review.html").read_bytes()
    return Response(content, media_type=f"{FILES[name]}; charset=utf-8")


def _image(content: bytes, kind: str) -> Response:
    if not content:
        raise HTTPException(404, "this recording cannot be shown")
    # The page fetches it before it shows it.
    return Response(content, media_type=kind, headers={"cache-control": "private, max-age=600"})
