"""Object stores: files sent and fetched by URL, patiently.

    s3://, gs://, azure://, oci:// ...   MosaicML Streaming's uploaders and downloaders

What fails or stalls is tried again with exponential back-off; then one message says what the store
answered last. What no patience mends (no such bucket, no permission, no library) is said at once.
Streaming's own client for S3 waits for a minute and tries five times, twice over; here every try
is short, and tries are counted in one place. In S3 a file can be claimed, which keeps two machines
from writing to one place.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ncamix.disk import UNWRITABLE, unwritable
from ncamix.errors import UserError, fail
from ncamix.files import beside
from ncamix.waiting import tell

TRIES = 8  # of one request
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries; they double
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0  # how long one try may stall
PATIENCE = TRIES * (CONNECT_SECONDS + ANSWER_SECONDS + LONGEST_WAIT)  # the longest request, seconds

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_AGAIN = "run the same command again to continue"
_MENDABLE = (408, 409, 412, 425, 429)  # of the answers that blame the asker
_MENDABLE_CODES = ("RequestTimeout", "SlowDown")
_HOPELESS = (
    *("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound"),
    *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
    *("ConfigFileNotFound", "InvalidConfig", "ProviderAuthenticationException"),
)
_AZURE = "AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY"
_DATABRICKS = "DATABRICKS_HOST and DATABRICKS_TOKEN"
_CREDENTIALS = {  # of the stores that can be written, by scheme: what says who asks
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; S3_ENDPOINT_URL, if the "
    "store is not Amazon's",
    "gs": "GCS_KEY and GCS_SECRET, or GOOGLE_APPLICATION_CREDENTIALS",
    "azure": _AZURE,
    "azure-dl": _AZURE,
    "oci": "~/.oci/config",
    "dbfs": _DATABRICKS,
    "alipan": "ALIPAN_WEB_REFRESH_TOKEN",
}
_READ_ALONE = {"hf": "HF_TOKEN", "sftp": "COMPOSER_SFTP_KEY_FILE"}
_EXTRAS = {"dbfs": "databricks", "alipan": "alipan", "hf": "hf"}  # of Streaming, by scheme
_WITHOUT_HOST = ("dbfs", "alipan")
_LIBRARIES = ("streaming.base.storage.upload", "azure", "google.auth", "oci")

Result = TypeVar("Result")


def is_url(place: object) -> bool:
    """Whether a place is an address, and no path on this machine."""
    return isinstance(place, str) and _URL.match(place) is not None


def misfit_url(url: str, written: bool) -> tuple[str, str] | None:
    """What is wrong with a URL before any store is asked, and the way out; None if nothing.

    written: whether files are sent there; some stores can only be read.
    """
    scheme, colon, rest = url.partition(":")
    known = [*_CREDENTIALS, *(() if written else _READ_ALONE)]
    offer = ", ".join(f"{name}:/" if name in _WITHOUT_HOST else f"{name}://" for name in known)
    if scheme not in known:
        verb = "written to" if written else "read"
        what = f"{url} cannot be {verb}: '{scheme}:' is not among the stores that are known"
        return what, f"name a folder, or a URL of {offer}"
    if scheme not in _WITHOUT_HOST and not re.match(r"//[^/]", rest):
        return f"{url} names no bucket", f"write it as {scheme}://BUCKET/FOLDER"
    return None


class Store:
    """The files below a URL.

    folder: local; what is sent lies there under the name that it gets. stop: ends waiting.

    Raises:
        UserError: the URL is none of a known store.
    """

    def __init__(self, url: str, folder: Path, stop: threading.Event | None = None) -> None:
        if misfit := misfit_url(url, written=False):
            raise fail(*misfit)
        self.url = url.rstrip("/")
        self.folder = folder
        self._stop = stop or threading.Event()
        for library in _LIBRARIES:  # what they have to say is in the exceptions that they raise
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self._lock = threading.Lock()

    def send(self, name: str) -> None:
        """Send a file; it is deleted locally once it has arrived.

        Raises:
            UserError: the store does not take it.
        """
        try:
            self._patiently("does not take what is written", lambda: self._up.upload_file(name))
        except FileNotFoundError:
            raise self._no_bucket() from None

    def fetch(self, name: str, to: Path) -> bool:
        """Fetch a file, whole; whether there is one.

        Raises:
            UserError: the store does not answer, or the file's folder does not take it.
        """
        from streaming.base.storage.download import CloudDownloader

        temporary = beside(to)

        def get() -> None:
            temporary.unlink(missing_ok=True)
            down = CloudDownloader.get(self.url)
            try:
                if self._is_s3:
                    down._s3_client = self._s3  # type: ignore[attr-defined]
                down.download(f"{self.url}/{name}", str(temporary), ANSWER_SECONDS)
            finally:
                down.clean_up()

        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            self._patiently(f"does not give {name}", get)
            os.replace(temporary, to)
        except FileNotFoundError:
            if self._is_s3 and not self._patiently("cannot be read", self._has_bucket):
                raise self._no_bucket() from None
            return False
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            if isinstance(error, PermissionError) and os.access(to.parent, os.W_OK):  # there
                raise fail(
                    f"{self.url} does not give {name} ({error.strerror})",
                    f"see that it may be read, and {_AGAIN}",
                ) from None
            raise unwritable(to.parent, f"{self.url}/{name}", error) from None
        finally:
            with suppress(OSError):
                temporary.unlink()
        return True

    def claim(self, name: str, data: bytes) -> bytes:
        """Write a small file unless there is one; what it holds then. Elsewhere than in S3 nothing
        is written.

        Raises:
            UserError: the store does not take it.
        """
        if not self._is_s3:
            return data
        bucket, key = self._at(name)

        def put() -> bytes:
            try:
                return bytes(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            except Exception as error:
                if _status(error) != 404:
                    raise
            try:
                self._s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except Exception as error:
                if _status(error) != 501:  # a store that knows no conditions; 412 is read anew
                    raise
                self._s3.put_object(Bucket=bucket, Key=key, Body=data)
                return bytes(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            return data

        try:
            return self._patiently("does not take what is written", put)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def remove(self, name: str, data: bytes) -> bool:
        """Remove a small file from S3, in one try, if it holds `data`; whether that went well."""
        if not self._is_s3:
            return True
        bucket, key = self._at(name)
        try:
            if self._s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data:
                self._s3.delete_object(Bucket=bucket, Key=key)
        except Exception as error:
            return _status(error) == 404
        return True

    def names(self) -> set[str] | None:
        """Names of all files below the URL; None where the store cannot list them."""
        try:
            found = self._patiently("cannot be listed", self._list)
        except FileNotFoundError:
            raise self._no_bucket() from None
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
    def _is_s3(self) -> bool:
        return self.url.startswith("s3://")

    def _at(self, name: str) -> tuple[str, str]:
        """Bucket and key of a file in S3."""
        place = urllib.parse.urlparse(f"{self.url}/{name}")
        return place.netloc, place.path.lstrip("/")

    def _has_bucket(self) -> bool:
        """Whether S3 has the bucket; who may not ask may still read."""
        try:
            self._s3.head_bucket(Bucket=self._at("")[0])
        except Exception as error:
            if _status(error) == 404:
                return False
            if _status(error) != 403:
                raise
        return True

    def _no_bucket(self) -> UserError:
        bucket = urllib.parse.urlparse(self.url).netloc or self.url
        return fail(
            f"{self.url}: there is no bucket '{bucket}'",
            "create it, or check the URL"
            + (" and S3_ENDPOINT_URL, which says whose store it is" if self._is_s3 else ""),
        )

    @property
    def _up(self) -> Any:
        with self._lock:
            return self._uploader

    @cached_property
    def _uploader(self) -> Any:
        from streaming.base.storage.upload import CloudUploader, S3Uploader

        at = (str(self.folder), self.url)
        if not self._is_s3:
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
            OSError: of this machine's disk.
        """
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return work()
            except (UserError, FileNotFoundError):
                raise
            except Exception as error:
                status = _status(error)
                if status == 404:
                    raise FileNotFoundError(str(error)) from None
                if isinstance(error, OSError) and error.errno in UNWRITABLE:
                    raise
                scheme = self.url.partition(":")[0]
                if isinstance(error, ImportError):
                    module = f" ({error.name})" if error.name else ""
                    extra = _EXTRAS.get(scheme, "all")
                    raise fail(
                        f"{self.url} needs a library that is not installed{module}",
                        f"install it: pip install 'mosaicml-streaming[{extra}]'",
                    ) from None
                if _is_hopeless(error, status):
                    raise fail(
                        f"{self.url} {what} ({_reason(error)})",
                        f"check the URL and the credentials ({(_CREDENTIALS | _READ_ALONE)[scheme]}"
                        f"), then {_AGAIN}",
                    ) from None
                if left == TRIES - 2:  # the second time: a first one passes mostly
                    tell(f"{self.url} {what} ({_reason(error)}); it is tried again for a while")
                if not left or self._stop.wait(wait * random.uniform(0.5, 1.0)):
                    raise fail(
                        f"{self.url} {what} ({_reason(error)})", self._after(error)
                    ) from None
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")

    def _after(self, error: Exception) -> str:
        """The way out after an error that did not pass."""
        if _status(error) is not None or not self._is_s3:
            return _AGAIN
        where = os.environ.get("S3_ENDPOINT_URL")
        said = f"S3_ENDPOINT_URL, which is {where}" if where else "the network"
        return f"see that the store can be reached ({said}), and {_AGAIN}"


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
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Message"):
            said = response["Error"]  # Streaming puts words of its own in place of it
            return f"{said['Message']}, {said.get('Code')}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = " ".join(lines[0].split())
    return said.rpartition(": An error occurred ")[2]
