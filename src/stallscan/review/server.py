"""The server of the review page: clips and queues out, answers in.

It serves one folder to browsers on this machine. Items have numbers, so no path ever comes from a
browser. A page of another site can neither read nor write: hosts and origins other than its own are
refused, and so are posts without a header that only this page's script sends.
"""

import hmac
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Awaitable, Callable
from importlib import resources
from types import FrameType
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Body, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from stallscan.errors import InputError
from stallscan.review.answers import LONGEST_NAME, Answer, clean_name
from stallscan.review.desk import Desk, NoItemError, PageSettings, UnseenError
from stallscan.review.queues import Order

COOKIE = "stallscan-reviewer"
HEADER = "x-stallscan"  # of every request that changes something
# Of every request but those for the page itself, where a token is required. Not a cookie: browsers
# send those to every port of a computer.
TOKEN = "x-stallscan-token"
# What a page shows: the recordings that its numbers mean, and whom it answers for. At the same
# address another server may run by now, and all tabs of a browser share the cookie.
RUN = "x-stallscan-run"
REVIEWER = "x-stallscan-reviewer"
MOST_ANSWERS = 50  # at once
# The page loads nothing from elsewhere, and nothing else may load it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    "": "text/html",
    "review.js": "text/javascript",
    "sheet.js": "text/javascript",
    "review.css": "text/css",
}
TOKENS = r"^[A-Za-z0-9-]{8,80}$"
Next = Callable[[Request], Awaitable[Response]]


class NewAnswer(BaseModel):
    """What the page posts."""

    item: int
    answer: Answer
    # Chosen by the page, so that it can post again when it is not sure whether it was heard.
    token: Annotated[str, Field(pattern=TOKENS)]
    # However long: a page may have been left open for days.
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class NewSheet(BaseModel):
    """What the page posts for a contact sheet."""

    answers: Annotated[list[NewAnswer], Field(min_length=1, max_length=MOST_ANSWERS)]
    sheet: Annotated[str, Field(pattern=TOKENS)]  # a token of the sheet itself


Token = Annotated[str, Body(pattern=TOKENS, embed=True)]
Name = Annotated[str, Body(max_length=LONGEST_NAME, embed=True)]
Within = Annotated[float, Query(gt=0, lt=0.5)]


class _Server(uvicorn.Server):
    """A server that ends with Ctrl-C, which is no error here, after it has answered."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at the first signal, and without waiting for open connections at the second."""
        self.force_exit = self.should_exit
        self.should_exit = True


def run(desk: Desk, listening: socket.socket) -> None:
    """Serve the application until the process is interrupted."""
    config = uvicorn.Config(make_app(desk), log_level="warning", access_log=False, lifespan="off")
    _Server(config).run(sockets=[listening])


def make_app(desk: Desk) -> FastAPI:
    """Build the application."""
    app = FastAPI(title="stallscan review", docs_url=None, redoc_url=None, openapi_url=None)
    _add_guard(app, desk)
    _add_refusals(app)
    app.include_router(_page_routes())
    app.include_router(_view_routes(desk))
    app.include_router(_answer_routes(desk))
    return app


def _add_guard(app: FastAPI, desk: Desk) -> None:
    """Refuse what is not from this server's own page, and keep browsers from sharing answers."""
    settings = desk.settings

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        refused = _refuse(request, settings) or _refuse_other_run(request, desk)
        response = refused or await call_next(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        response.headers["cross-origin-resource-policy"] = "same-origin"
        if not settings.token:  # without https, browsers know it for loopback only, and complain
            response.headers["cross-origin-opener-policy"] = "same-origin"
        response.headers.setdefault("cache-control", "no-store")
        response.headers["vary"] = RUN  # what a browser keeps of one run is not for another
        return response


def _add_refusals(app: FastAPI) -> None:
    """Answer each error with a sentence."""

    @app.exception_handler(NoItemError)
    def no_item(_request: Request, _error: Exception) -> Response:
        return _say("There is no such recording.", 404)

    @app.exception_handler(UnseenError)
    def unseen(_request: Request, _error: Exception) -> Response:
        return _say("This recording cannot be shown, so this answer is not possible.", 409)

    @app.exception_handler(HTTPException)
    def refused(_request: Request, error: HTTPException) -> Response:
        return _say(error.detail, error.status_code)

    @app.exception_handler(InputError)
    def unsaved(_request: Request, error: Exception) -> Response:
        return _say(str(error), 503)

    # The usual answer repeats what was sent, which need not be valid text.
    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, _error: Exception) -> Response:
        return _say("This request is not valid.", 422)


def _page_routes() -> APIRouter:
    """Return the routes of the page itself, the same for every folder."""
    routes = APIRouter()

    @routes.get("/")
    def page() -> Response:
        return _file("")

    @routes.get("/review.js")
    def script() -> Response:
        return _file("review.js")

    @routes.get("/sheet.js")
    def sheet_script() -> Response:
        return _file("sheet.js")

    @routes.get("/review.css")
    def style() -> Response:
        return _file("review.css")

    @routes.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # browsers ask for it, and report an error without one

    return routes


def _view_routes(desk: Desk) -> APIRouter:
    """Return the routes of queues and clips, which change nothing."""
    routes = APIRouter(prefix="/api")

    @routes.get("/queue")
    def queue(request: Request, order: Order, within: Within = 0.03) -> dict[str, Any]:
        return desk.describe(_reviewer(request, desk), order, within)

    @routes.get("/easy")
    def easy(request: Request, order: Order) -> dict[str, Any]:
        return desk.describe_easy(_reviewer(request, desk), order)

    @routes.get("/reviewers")
    def reviewers() -> dict[str, Any]:
        return desk.describe_reviewers()

    @routes.get("/clip/{item}")
    def clip(item: int) -> dict[str, Any]:
        return desk.describe_clip(item)

    @routes.get("/sheet/{item}")
    def sheet(item: int) -> Response:
        return _image(desk.clip(item).sheet, "image/jpeg")

    @routes.get("/evidence/{item}")
    def evidence(item: int) -> Response:
        return _image(desk.clip(item).evidence, "image/png")

    @routes.get("/looked/{item}")
    def looked(request: Request, item: int) -> Response:
        return _image(desk.looked(_reviewer(request, desk), item), "image/webp")

    return routes


def _answer_routes(desk: Desk) -> APIRouter:
    """Return the routes by which a reviewer gives, takes back and signs answers."""
    routes = APIRouter(prefix="/api")

    @routes.post("/answer")
    def give(request: Request, new: NewAnswer) -> dict[str, Any]:
        return save(request, [new], None)

    @routes.post("/answers")
    def give_sheet(request: Request, new: NewSheet) -> dict[str, Any]:
        return save(request, new.answers, new.sheet)

    def save(request: Request, answers: list[NewAnswer], sheet: str | None) -> dict[str, Any]:
        reviewer = _named(request, desk)
        news = [
            desk.prepare(reviewer, new.item, new.answer, new.token, new.seconds) for new in answers
        ]
        return {"recent": desk.give(reviewer, news, sheet)}

    @routes.post("/undo")
    def undo(request: Request, token: Token) -> dict[str, Any]:
        return desk.undo(_named(request, desk), token)

    @routes.post("/reviewer")
    def rename(name: Name, response: Response) -> dict[str, str]:
        chosen = _as_saved(name, desk)
        if not chosen:
            raise HTTPException(422, "a name needs at least one letter")
        quoted = urllib.parse.quote(chosen)
        response.set_cookie(COOKIE, quoted, httponly=True, samesite="strict", max_age=31_536_000)
        return {"reviewer": chosen}

    return routes


def _reviewer(request: Request, desk: Desk) -> str:
    name = request.headers.get(REVIEWER) or request.cookies.get(COOKIE, "")
    return _as_saved(urllib.parse.unquote(name), desk)


def _as_saved(name: str, desk: Desk) -> str:
    """Return a name as its reviewer's answers are saved; the default if it has no letter."""
    chosen = clean_name(name) or desk.settings.reviewer
    return desk.spelled(chosen) if chosen else ""


def _named(request: Request, desk: Desk) -> str:
    """Return the name that answers are saved under."""
    name = _reviewer(request, desk)
    if not name:
        raise HTTPException(409, "give your name first")
    return name


def _refuse(request: Request, settings: PageSettings) -> Response | None:
    """Return the refusal of a request that is not from this server's own page."""
    host = request.headers.get("host", "").lower()  # browsers send it so, whatever was typed
    name = re.sub(r":\d+$", "", host)
    # An IP address cannot be made to lead elsewhere, as a name can; the token says who is meant.
    if name not in map(str.lower, settings.hosts) and not (settings.token and _is_address(name)):
        return _no("this name of the server is not known to it")
    origin = request.headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return _no("requests of other sites are refused")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return _no("requests of other sites are refused")
    if request.method not in ("GET", "HEAD") and request.headers.get(HEADER) != "1":
        return _no("only the review page may change something")
    if settings.token and request.url.path.startswith("/api/"):
        given = request.headers.get(TOKEN, "")
        if not hmac.compare_digest(given.encode(), settings.token.encode()):
            return _no("open the address that 'stallscan review' printed, with its token")
    return None


def _refuse_other_run(request: Request, desk: Desk) -> Response | None:
    """Return the refusal of a page that shows another run than this server."""
    if request.headers.get(RUN, desk.run_key) == desk.run_key:
        return None
    return _say("The server shows other recordings than this page. Reload the page.", 409)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _no(reason: str) -> Response:
    return _say(f"Refused: {reason}.", 403)


def _say(sentence: str, status: int) -> Response:
    return Response(f"{sentence}\n", status, media_type="text/plain")


def _file(name: str) -> Response:
    content = resources.files("stallscan.assets").joinpath(name or "review.html").read_bytes()
    return Response(content, media_type=f"{FILES[name]}; charset=utf-8")


def _image(content: bytes, kind: str) -> Response:
    if not content:
        raise HTTPException(404, "this recording cannot be shown")
    # The page fetches it before it shows it.
    return Response(content, media_type=kind, headers={"cache-control": "private, max-age=600"})
