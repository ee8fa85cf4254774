"""Run the review server until it is stopped."""

import contextlib
import getpass
import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stallscan import workers
from stallscan.errors import InputError
from stallscan.files import explain
from stallscan.recordings.limits import MEMORY_BYTES
from stallscan.review import clips, run
from stallscan.review.answers import Answers, clean_name
from stallscan.review.clips import Cache
from stallscan.review.desk import BLIND_ORDERS, LOOPBACK, Desk, Look, PageSettings
from stallscan.review.known import SHARE, read_known
from stallscan.review.queues import Order

PROCESSES = 2  # that make clips: the next ones are ready before they are asked for
ANYONE = "reviewer"  # where the system does not tell the user's name


@dataclass(frozen=True)
class ServeSettings:
    """Where and how the page is served.

    Attributes
    ----------
    host : str
        Address to listen at. Other than loopback, a token is required of every browser.
    port : int
        0 takes a free one.
    order : str
        The first order; None: ``uncertain``, or ``random`` if blind.
    blind : bool
        Whether score, call and filename are hidden.
    known : Path or None
        Table of known labels, to check the reviewers with.
    known_share : float
        How much of what a reviewer sees is taken from it.
    look : callable or None
        As in `Desk`.
    recordings : tuple of Path
        As in `run.read`; empty: where they were.
    """

    host: str = "127.0.0.1"
    port: int = 0
    order: Order | None = None
    blind: bool = False
    known: Path | None = None
    known_share: float = SHARE
    look: Look | None = None
    recordings: tuple[Path, ...] = ()


def serve(folder: Path, settings: ServeSettings, ready: Callable[[str], None]) -> Answers:
    """Serve the review page of a folder until the process is interrupted.

    Parameters
    ----------
    folder : Path
        As `run.read` takes it. The answers are saved in it.
    settings : ServeSettings
        Where and how.
    ready : callable
        Called with the address of the page when a browser can open it.

    Returns
    -------
    Answers
        The answers, after the server has ended.

    Raises
    ------
    InputError
        If the order is not for blind reviewers, there is nothing to review, no recording was found,
        the folder cannot be written, the port is taken, or there are no known labels of its
        recordings.
    """
    order = settings.order or ("random" if settings.blind else "uncertain")
    if settings.blind and order not in BLIND_ORDERS:
        raise InputError(
            f"--order {order} tells the reviewer about the scores. With --blind, choose one of "
            f"{', '.join(BLIND_ORDERS)}"
        )
    reviewed = run.read(folder, settings.recordings or None)
    if not any(item.shown is not None for item in reviewed.items):
        raise InputError(
            f"{folder}: none of its {len(reviewed.items):,} recordings was found. Give their "
            "folder with --recordings"
        )
    labels = None
    if settings.known is not None:
        labels = read_known(settings.known, reviewed, settings.known_share)
    answers = Answers(folder, reviewed.stamps)
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        reason = explain(error) if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot serve at {settings.host}:{settings.port} ({reason}). Choose another --port or "
            "--host"
        ) from None
    token = "" if _is_loopback(settings.host) else secrets.token_urlsafe(24)
    about = PageSettings(
        # Several people come from other computers; none of them must answer in this user's name.
        reviewer="" if token else _user(),
        order=order,
        blind=settings.blind,
        hosts=(*LOOPBACK, *_names(settings.host, elsewhere=bool(token))),
        token=token,
    )
    address = f"http://{_shown(settings.host)}:{listening.getsockname()[1]}/"
    address += f"?order={order}" + (f"#token={token}" if token else "")
    making = workers.on_demand(clips.make, PROCESSES, clips.crashed, memory_bytes=MEMORY_BYTES)
    with listening, making as submit:
        desk = Desk(reviewed, answers, Cache(submit, reviewed.absent), about, labels, settings.look)
        # Begin before a browser asks: the processes that make clips take a second to start. So does
        # importing the server.
        desk.describe(about.reviewer, order)
        from stallscan.review import server

        ready(address)
        server.run(desk, listening)
    return answers


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str, elsewhere: bool) -> list[str]:
    """Return the names by which browsers, here or elsewhere, may call this server."""
    name = socket.gethostname()
    found = {host} if not elsewhere else {host, name, socket.getfqdn()}
    if elsewhere:
        with contextlib.suppress(OSError):
            found |= {str(each[4][0]) for each in socket.getaddrinfo(name, None)}
    return [f"[{each}]" if ":" in each else each for each in found]


def _shown(host: str) -> str:
    """Return what to write into the address for a host to listen at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _user() -> str:
    try:
        return clean_name(getpass.getuser()) or ANYONE
    except (KeyError, OSError, ImportError):
        return ANYONE
