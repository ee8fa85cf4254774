"""A bucket on this machine, served by moto, that fails as often as it is told to.

Faults are drawn from a seed, the key and the number of the request, so that they do not depend on
the order of requests.
"""

import logging
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import get_canned_acl, s3_backends
from werkzeug.serving import make_server

# Two statuses, a connection that breaks, a body shorter than it should be, and a length to match.
FAULTS = ("500", "503", "reset", "truncated", "short")
NAME = "competition"


class Request(NamedTuple):
    """A request that the server received."""

    method: str
    key: str
    fault: str  # how it was answered wrongly; empty if it was not
    range: str


class Bucket:
    """A public bucket, as a context manager. It answers to any name.

    Attributes
    ----------
    share : float
        Share of GET requests that fail, 0..1.
    always : dict of str to str
        Faults of single keys, in every request.
    first : dict of str to list of str
        Faults of the first requests of single keys; empty for an answer without one.
    stand_ins : dict of str to str
        Keys whose content is that of another key.
    pause_s : float
        Time before each answer, s.
    requests : list of Request
        All requests so far.
    peak : int
        Largest number of requests answered at the same time.
    """

    def __init__(self, share: float = 0.0, seed: int = 0, pause_s: float = 0.0) -> None:
        self.share, self.seed, self.pause_s = share, seed, pause_s
        self.always: dict[str, str] = {}
        self.first: dict[str, list[str]] = {}
        self.stand_ins: dict[str, str] = {}
        self.requests: list[Request] = []
        self.peak, self._now, self._lock = 0, 0, threading.Lock()
        self._numbers = Counter[str]()
        self._backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Self:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._backend.reset()
        self._backend.create_bucket(NAME, "us-east-1")
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._backend.reset()

    def put(self, key: str, content: bytes, e_tag: str | None = None) -> str:
        """Store an object that anybody may read; return its url."""
        stored = self._backend.put_object(NAME, key, content)
        stored.set_acl(get_canned_acl("public-read"))
        if e_tag is not None:
            stored._etag = e_tag
        return f"s3://{NAME}/{key}"

    def gets(self) -> list[Request]:
        """Return the requests for content."""
        return [request for request in self.requests if request.method == "GET"]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            return self._respond(environ, start)
        finally:
            with self._lock:
                self._now -= 1

    def _respond(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(self.pause_s)
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        _, _, key = path.lstrip("/").partition("/")  # any bucket's name is this one's
        fault = self._draw(key) if method == "GET" else ""
        self.requests.append(Request(method, key, fault, environ.get("HTTP_RANGE", "")))
        for name in ("PATH_INFO", "REQUEST_URI", "RAW_URI"):
            environ[name] = f"/{NAME}/{self.stand_ins.get(key, key)}"
        if fault.isdigit():
            start(f"{fault} injected", [("Content-Length", "0")])
            return [b""]
        if not fault:
            body: Iterable[bytes] = self._app(environ, start)
            return body
        answer: list[Any] = []
        content = b"".join(self._app(environ, lambda *given: answer.extend(given)))
        status, headers = answer[:2]
        if fault == "short":
            content = content[: -max(1, len(content) // 10)]
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(content))))
        start(status, headers)
        if fault == "reset":
            return _reset(environ["werkzeug.socket"], content[: len(content) // 3])
        return [content[: len(content) // 2] if fault == "truncated" else content]

    def _draw(self, key: str) -> str:
        self._numbers[key] += 1
        rng = random.Random(f"{self.seed} {key} {self._numbers[key]}")
        drawn = rng.choice(FAULTS) if rng.random() < self.share else ""
        if self.first.get(key):
            return self.first[key].pop(0)
        return self.always.get(key, drawn)


def _reset(connection: socket.socket, content: bytes) -> Iterator[bytes]:
    yield content
    # Closing it now sends a reset instead of the usual end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError
