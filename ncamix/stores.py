"""Object stores: files sent and fetched by URL, patiently.

    s3://, gs://, azure://, oci://, hf:// ...   MosaicML Streaming's uploaders and downloaders

What fails or stalls is tried again with exponential back-off; then one message says what the store
answered last. What no patience mends (no such bucket, no permission, no library) is said at once.
Streaming's own client for S3 waits for a minute and tries five times, twice over; here every try
is short, and tries are counted in one place.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ncamix.errors import UserError, fail

TRIES = 8  # of one request
ATTEMPTS = 6  # of a shard that Streaming fetches; the pauses between them double, from 1 second on
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries; they double
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0  # how long one try or attempt may stall

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_AGAIN = "run the same command again to continue"
_MENDABLE = (408, 425, 429)  # of the answers that blame the asker
_MENDABLE_CODES = ("RequestTimeout", "SlowDown")
_HOPELESS = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")

Result = TypeVar("Result")


def is_url(place: object) -> bool:
    """Whether a place is an address, and no path on this machine."""
    return isinstance(place, str) and _URL.match(place) is not None


class Store:
    """The files below a URL.

    folder: local; what is sent lies there under the name that it gets. stop: ends waiting.
    """

    def __init__(self, url: str, folder: Path, stop: threading.Event | None = None) -> None:
        self.url = url.rstrip("/")
        self.folder = folder
        self._stop = stop or threading.Event()
        logging.getLogger("streaming.base.storage.upload").setLevel(logging.ERROR)
        self._lock = threading.Lock()

    def send(self, name: str) -> None:
        """Send a file; it is deleted locally once it has arrived.

        Raises:
            UserError: the store does not take it.
        """
        self._patiently("does not take what is written", lambda: self._up.upload_file(name))

    def fetch(self, name: str, to: Path) -> bool:
        """Fetch a file, whole; whether there is one.

        Raises:
            UserError: the store does not answer.
        """
        from streaming.base.storage.download import CloudDownloader

        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")

        def get() -> None:
            temporary.unlink(missing_ok=True)
            down = CloudDownloader.get(self.url)
            if self.url.startswith("s3://"):
                down._s3_client = self._s3  # type: ignore[attr-defined]
            down.download(f"{self.url}/{name}", str(temporary), ANSWER_SECONDS)

        try:
            self._patiently("does not give what is there", get)
            os.replace(temporary, to)
        except FileNotFoundError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def names(self) -> set[str] | None:
        """Names of all files below the URL; None where the store cannot list them."""
        found = self._patiently("cannot be listed", self._list)
        if found is None:
            return None
        prefix = urllib.parse.urlparse(self.url).path.strip("/")
        below = f"{prefix}/" if prefix else ""
        return {name.removeprefix(below) for name in found if name.startswith(below)}

    def _list(self) -> list[str] | None:
        try:
            found: list[str] | None = self._up.list_objects()
        except NotImplementedError:
            return None
        return found

    @property
    def _up(self) -> Any:
        with self._lock:
            return self._uploader

    @cached_property
    def _uploader(self) -> Any:
        from streaming.base.storage.upload import CloudUploader, S3Uploader

        at = (str(self.folder), self.url)
        if not self.url.startswith("s3://"):
            return CloudUploader.get(at, keep_local=False, retry=1, exist_ok=True)
        uploader = S3Uploader.__new__(S3Uploader)  # its own constructor makes a client that stalls
        CloudUploader.__init__(uploader, at, keep_local=False, retry=1, exist_ok=True)
        uploader.s3 = self._s3
        return uploader

    @cached_property
    def _s3(self) -> Any:
        """A client whose every request is one short try."""
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        where = os.environ.get("S3_ENDPOINT_URL")
        return boto3.session.Session().client("s3", config=config, endpoint_url=where)

    def _patiently(self, what: str, work: Callable[[], Result]) -> Result:
        """Do what may fail until it does not.

        Raises:
            UserError: it failed too often, or cannot succeed. FileNotFoundError: nothing is there.
        """
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return work()
            except (UserError, FileNotFoundError):
                raise
            except Exception as error:
                status = _status(error)
                if status == 404 and "NoSuchBucket" not in str(error):
                    raise FileNotFoundError(str(error)) from None
                if isinstance(error, ImportError):
                    raise fail(
                        f"{self.url} needs a library that is not installed ({error})",
                        "install it: pip install 'mosaicml-streaming[all]'",
                    ) from None
                if _is_hopeless(error, status):
                    raise fail(
                        f"{self.url} {what} ({_reason(error)})",
                        f"check the URL and the credentials, then {_AGAIN}",
                    ) from None
                if not left or self._stop.wait(wait * random.uniform(0.5, 1.0)):
                    raise fail(f"{self.url} {what} ({_reason(error)})", _AGAIN) from None
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of any store's library carries."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore's
            found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
        else:
            found = [getattr(response, "status_code", None)]
        found += [getattr(one, key, None) for key in ("status_code", "status", "code")]
        for status in found:
            if isinstance(status, int):
                return status
    return None


def _is_hopeless(error: BaseException, status: int | None) -> bool:
    """Whether trying again cannot help."""
    if type(error) in (ValueError, KeyError, TypeError):  # of what was asked
        return True
    if any(type(one).__name__ in _HOPELESS for one in _chain(error)):
        return True
    if any(code in str(one) for one in _chain(error) for code in _MENDABLE_CODES):
        return False
    return status is not None and 400 <= status < 500 and status not in _MENDABLE


def _reason(error: BaseException) -> str:
    """The last thing that went wrong, in a line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.rpartition(": An error occurred ")[2]
