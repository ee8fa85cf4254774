"""How fast recordings are fetched, beside the bare client, and what becomes of injected faults."""

import asyncio
import collections
import http.server
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
from bucket import FAULTS, NAME, Bucket
from common import HERE, machine, markdown, publish, say, version

from stallscan import files
from stallscan.recordings import fetch
from stallscan.recordings.bucket import FetchSettings
from stallscan.recordings.fetch import Wanted

SMALL, LARGE = range(2_000, 60_000), 2_440_000  # bytes; 1.4 TB / 573,048 (docs/facts.md 4)
AT_ONCE = 32
app = cyclopts.App()


@app.default
def main(
    *,
    small: int = 2000,
    large: int = 400,
    share: float = 0.05,
    repeats: int = 5,
    page: Path = HERE / "fetch.md",
) -> None:
    """Fetch small objects with faults, then large ones without, and write the tables.

    Parameters
    ----------
    small
        Objects of 2 to 60 kB, a share of whose answers fails.
    large
        Objects of the size of a recording, to measure the rate.
    share
        Share of answers that fail.
    repeats
        Runs of each client, in turn.
    page
        The tables, a Markdown file.
    """
    load = os.getloadavg()[0]
    faulty = _faulty(small, share)
    rates = []
    with Bucket() as moto:
        content = random.Random(0).randbytes(LARGE)
        moto.put("0.mp4", content)
        moto.stand_ins = {f"{row}.mp4": "0.mp4" for row in range(1, large)}
        rates.append(_rates("moto", moto.endpoint, large // 4, repeats))
    with served(content) as endpoint:
        rates.append(_rates("http.server", endpoint, large, repeats))
    lead = (
        f"Server and client share the cores of one machine, with other jobs (load average at the "
        f"start: {load:.1f}). {AT_ONCE} downloads at once. "
        f"{version()}, {machine()}."
    )
    rate_lead = (
        f"Objects of {LARGE / 1e6:.2f} MB, the mean of the competition's. The bare client is "
        "obstore, which receives the same objects with as many requests at once and discards them; "
        "`fetch` also writes files and computes their MD5. moto is written in Python and slower "
        f"than either. Median of {repeats} runs in turn, slowest and fastest in brackets.\n"
    )
    head = ["server", "bare client, MB/s", "fetch, MB/s", "share"]
    title = "Fetching recordings from a local bucket"
    publish(page, title, lead, [*faulty, rate_lead, markdown(head, rates)])


@app.command
def client(kind: str, endpoint: str, count: int) -> None:
    """Fetch `count` objects, `bare` or with `fetch`, and print the seconds it took."""
    wanted = [Wanted(f"{row}.mp4", f"s3://{NAME}/{row}.mp4") for row in range(count)]
    settings = FetchSettings(endpoint=endpoint, at_once=AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        started = time.monotonic()
        if kind == "bare":
            asyncio.run(_receive(endpoint, wanted))
        else:
            outcomes = fetch.fetch(wanted, Path(temporary), settings)
            assert {outcome.status for outcome in outcomes} == {"fetched"}
        print(json.dumps(time.monotonic() - started))


async def _receive(endpoint: str, wanted: Sequence[Wanted]) -> None:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        NAME,
        endpoint=endpoint,
        region="us-east-1",
        skip_signature=True,
        client_options={"allow_http": True},
    )
    queue = iter(wanted)

    async def work() -> None:
        for item in queue:
            result = await obstore.get_async(store, item.filename)
            assert len(await result.bytes_async()) == LARGE

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _faulty(count: int, share: float) -> list[str]:
    """Fetch many objects although a share of the answers is wrong; return the table."""
    rng = random.Random(0)
    content = {f"{row}.mp4": rng.randbytes(rng.choice(SMALL)) for row in range(count)}
    with Bucket(share=share) as bucket, tempfile.TemporaryDirectory() as temporary:
        wanted = [Wanted(name, bucket.put(name, each)) for name, each in content.items()]
        started = time.monotonic()
        outcomes = fetch.fetch(wanted, Path(temporary), FetchSettings(endpoint=bucket.endpoint))
        took_s = time.monotonic() - started
        right = sum(
            files.sha256(Path(temporary) / name) == files.sha256_of(each)
            for name, each in content.items()
        )
        requests = bucket.gets()
    good = collections.Counter(request.key for request in requests if not request.fault)
    faults = collections.Counter(request.fault for request in requests)
    rows = [
        ["objects", f"{count:,}"],
        *([f"answers with the fault {fault}", f"{faults[fault]:,}"] for fault in FAULTS),
        ["fetched with the right content", f"{right:,}"],
        ["failed", f"{sum(outcome.status == 'failed' for outcome in outcomes):,}"],
        ["answered rightly more than once", f"{sum(number > 1 for number in good.values()):,}"],
        ["seconds", f"{took_s:.1f}"],
    ]
    lead = f"Objects of 2 to 60 kB from moto; {share:.0%} of the answers have a fault.\n"
    return [lead, markdown(["", ""], rows)]


def _rates(name: str, endpoint: str, count: int, repeats: int) -> list[str]:
    """Measure both clients in turn, each in a process of its own."""
    seconds: dict[str, list[float]] = {"bare": [], "fetch": []}
    for _ in range(repeats):
        for kind, measured in seconds.items():
            command = [sys.executable, __file__, "client", kind, endpoint, str(count)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured.append(json.loads(printed))
            say(f"{name}, {kind}: {measured[-1]:.2f} s")
    rates = {kind: [count * LARGE / 1e6 / each for each in took] for kind, took in seconds.items()}
    shown = [f"{median(each):.0f} ({min(each):.0f} to {max(each):.0f})" for each in rates.values()]
    return [name, *shown, f"{median(rates['fetch']) / median(rates['bare']):.2f}"]


@contextmanager
def served(content: bytes) -> Iterator[str]:
    """Serve the same content under all names, as fast as Python can."""
    from hashlib import md5

    tag = md5(content, usedforsecurity=False).hexdigest()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{tag}"')
            self.send_header("Last-Modified", self.date_time_string())
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    app()
