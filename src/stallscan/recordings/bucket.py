"""Anonymous requests to a bucket, repeated with random pauses until they succeed."""

import asyncio
import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stallscan.settings import Settings
from stallscan.words import printable

if TYPE_CHECKING:
    from obstore.store import S3Store

# A connection that delivers nothing for this long is given up, and any after this much time.
SILENCE_S, REQUEST_S = 60, 1800
# Longest pause between two attempts: S3 asks for slower requests for seconds, not minutes.
LONGEST_PAUSE_S = 30.0

# Where the tables of simulated recordings say that these are; there is no such bucket.
SIMULATED_BUCKET = "s3://simulated/"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STATUS = re.compile(r"status code: (\d{3})")


class FetchSettings(Settings):
    """How to reach the bucket.

    Attributes
    ----------
    endpoint : str
        URL of an S3-compatible server, to which bucket and key are appended. Empty: Amazon S3.
    at_once : int
        Number of downloads at the same time.
    attempts : int
        Number of times to try a recording.
    pause_s : float
        The pause before the first retry is drawn from 0 to this, in s; the limit doubles with each
        retry, up to `LONGEST_PAUSE_S`.
    limit_mbit : float
        Bandwidth limit of all downloads together, in Mbit/s; 0 for none.
    """

    endpoint: str = Field(default="", pattern=r"^(https?://.+)?$")
    at_once: int = Field(default=32, ge=1, le=1024)
    attempts: int = Field(default=8, ge=1, le=100)
    pause_s: float = Field(default=0.5, ge=0, le=60)
    limit_mbit: float = Field(default=0.0, ge=0)


class AgainError(Exception):
    """An attempt failed, but another may succeed."""


class FinalError(Exception):
    """No attempt can succeed."""


class GoneError(FinalError):
    """The object does not exist, as far as anybody may know."""


class NotPublicError(GoneError):
    """The object does not exist, or may not be read."""


def url_fault(url: str) -> str:
    """Say why a url is not that of an object in a bucket; empty if it is one."""
    bucket, key = split_url(url)
    if url.strip().lower().startswith("s3://") and _BUCKET.fullmatch(bucket) and key.strip("/"):
        return ""
    return "the url is not of the form s3://bucket/key"


def split_url(url: str) -> tuple[str, str]:
    """Return the bucket and the key of ``s3://bucket/key``.

    By hand: a key may have any characters, and `urllib` ends it at # and ?.
    """
    bucket, _, key = url.strip().partition("://")[2].partition("/")
    return bucket, key.lstrip("/")


class Bucket:
    """Requests to a store, anonymous. Failures are `AgainError` or `FinalError`."""

    def __init__(self, settings: FetchSettings) -> None:
        self.settings = settings
        self.answered = False  # whether any request had a response
        self._stores: dict[str, S3Store] = {}
        import obstore  # noqa: F401 - if it is missing, say so before anything is repeated

    def _place(self, url: str) -> tuple["S3Store", str]:
        """Return the store and the key of a url."""
        bucket, key = split_url(url)
        if bucket not in self._stores:
            self._stores[bucket] = self._open(bucket)
        return self._stores[bucket], key

    def _open(self, bucket: str) -> "S3Store":
        from obstore.store import S3Store

        endpoint = self.settings.endpoint.rstrip("/")
        # The global name of a bucket is resolved to its region, so that nobody has to know it. A
        # certificate covers one level of names only: a bucket with a dot is part of the path.
        is_host = not endpoint and "." not in bucket
        if not endpoint:
            endpoint = (
                f"https://{bucket}.s3.amazonaws.com" if is_host else "https://s3.amazonaws.com"
            )
        return S3Store(
            bucket,
            endpoint=endpoint,
            virtual_hosted_style_request=is_host,
            region="us-east-1",  # required, but only signatures depend on it
            skip_signature=True,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "read_timeout": f"{SILENCE_S}s",
                "timeout": f"{REQUEST_S}s",
            },
            # One loop, ours, repeats everything: also truncated and wrong content.
            retry_config={"max_retries": 0},
        )

    async def ask(self, request: Callable[..., Any], url: str, **options: Any) -> Any:
        """Make a request; raise AgainError or FinalError if it fails."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            result = await request(*self._place(url), **options)
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
            self.answered = True
            kind = GoneError if isinstance(error, FileNotFoundError) else NotPublicError
            raise kind(_explain(error)) from None
        except BaseError as error:
            self.answered |= bool(_STATUS.search(str(error)))
            raise AgainError(_explain(error)) from None
        except ValueError as error:  # obstore does not accept the key
            raise GoneError(_explain(error)) from None
        self.answered = True
        return result

    async def size(self, url: str) -> int:
        """Return the size of a recording in bytes."""
        import obstore

        async def attempt() -> int:
            meta = await self.ask(obstore.head_async, url)
            return int(meta["size"])

        return int(await self.repeat(attempt))

    async def discard(self, url: str) -> int:
        """Download a recording without keeping it; return its size in bytes."""
        import obstore

        async def attempt() -> int:
            result = await self.ask(obstore.get_async, url)
            return len(await self.ask(lambda *_: result.bytes_async(), url))

        return int(await self.repeat(attempt))

    async def repeat(
        self, attempt: Callable[[], Any], failed: Callable[[str], None] = lambda _reason: None
    ) -> Any:
        """Repeat an attempt, with growing random pauses, until it succeeds or none is left."""
        for number in range(1, self.settings.attempts + 1):
            try:
                return await attempt()
            except AgainError as error:
                failed(str(error))
                if number == self.settings.attempts:
                    raise
            longest = min(self.settings.pause_s * 2 ** (number - 1), LONGEST_PAUSE_S)
            await asyncio.sleep(random.uniform(0, longest))
        raise AssertionError("at least one attempt is made")


def _explain(error: Exception) -> str:
    """Return the essence of an obstore error: the HTTP status, or the end of its first line."""
    first = str(error).partition("\n")[0]
    if status := _STATUS.search(first):
        # A bucket that may not be listed answers 403 for what it does not have.
        missing = {"404": "not in the bucket", "403": "not in the bucket, or not public"}
        return f"{missing.get(status[1], 'error')} (HTTP {status[1]})"
    return printable(first.rpartition(" - ")[2].removeprefix("Generic S3 error: "))
