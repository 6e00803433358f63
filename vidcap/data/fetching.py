"""URLs -> files, politely and resumably.

At most `rate` requests a second go to one host, over all connections. A server that is busy (429, 5xx), silent or
breaks off is asked again, later each time; one that says no (any other 4xx) is not. A file appears complete or not at
all, under the hash of its URL, so that a second run asks for nothing that is there. What is gone for good (404, 410)
is noted in `gone.jsonl` beside the files and not asked for again.

Given up: robots.txt, cookies, the rate of a host that is reached by a redirect only, and a limit to the time that a
server which sends its bytes one by one may take.
"""

import hashlib
import json
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from processing.support.progress import track
from processing.video_io_vidcap import in_ascii

from .notes import read_notes

CHUNK = 1 << 16
GONE = (404, 410)
LONGEST_WAIT = 300.0  # seconds; a server that wants more of them is left for the next run


@dataclass(frozen=True)
class FetchOptions:
    """
    How to fetch.

    Args:
        connections: URLs fetched at once.
        rate: Most requests a second to one host.
        timeout: Seconds a server may stay silent.
        retries: How often a request that failed is made again.
        backoff: Seconds before the first of these; they double each time, and vary by half so as to spread.
        max_bytes: Largest file.
        retry_gone: Ask again for what was gone.

    Raises:
        ValueError: For a value out of range.
    """

    connections: int = 4
    rate: float = 4.0
    timeout: float = 30.0
    retries: int = 4
    backoff: float = 1.0
    max_bytes: int = 256 << 20
    retry_gone: bool = False

    def __post_init__(self) -> None:
        for name in ("connections", "rate", "timeout", "max_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: pass a number above 0")


@dataclass(frozen=True)
class Fetched:
    """The file of a URL, or why there is none; `gone` if there never will be."""

    path: Path | None = None
    failure: str = ""
    gone: bool = False


class _FetchError(Exception):
    """A request that failed; `again` if it may succeed later, `wait` as long as the server asks for, in seconds."""

    def __init__(self, reason: str, *, again: bool = False, gone: bool = False, wait: float = 0.0):
        super().__init__(reason)
        self.again, self.gone, self.wait = again, gone, wait


class _Stopped(Exception):
    """Another URL ended the run."""


def path_of(url: str, folder: Path) -> Path:
    """Where the file of a URL is kept."""
    return folder / hashlib.sha256(url.encode()).hexdigest()[:32]


def fetch_all(urls: Iterable[str], folder: Path, options: FetchOptions) -> dict[str, Fetched]:
    """Fetches what is not there yet.

    Args:
        urls: http(s) addresses; one that comes twice is fetched once.
        folder: Where the files are kept, created where needed.
        options: How to fetch.

    Returns:
        What became of each URL.

    Raises:
        OSError: If a file cannot be written. What fails on the network is in the result.
        ValueError: If `gone.jsonl` is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    memory = folder / "gone.jsonl"
    if options.retry_gone:
        memory.unlink(missing_ok=True)
    gone = {note["url"]: note["reason"] for note in read_notes(memory, ("url", "reason"))}
    results: dict[str, Fetched] = {}
    missing = []
    for url in dict.fromkeys(urls):
        if path_of(url, folder).is_file():
            results[url] = Fetched(path_of(url, folder))
        elif url in gone:
            results[url] = Fetched(failure=gone[url], gone=True)
        else:
            missing.append(url)
    if not missing:
        return results
    fetcher = _Fetcher(folder, options)
    with ThreadPoolExecutor(options.connections) as pool, memory.open("a", encoding="utf-8") as notes:
        try:
            futures = {pool.submit(fetcher, url): url for url in missing}
            for future in track(as_completed(futures), "fetching", total=len(futures), unit="file"):
                url = futures[future]
                results[url] = future.result()
                if results[url].gone:
                    notes.write(json.dumps({"url": url, "reason": results[url].failure}) + "\n")
                    notes.flush()
        except BaseException:  # also by the keyboard: what waits in line must not keep the process
            fetcher.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


class _Fetcher:
    """Fetches one URL; called from several threads at once."""

    def __init__(self, folder: Path, options: FetchOptions):
        self.folder, self.options = folder, options
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.free: dict[str, float] = {}  # when each host may be asked next, by the monotonic clock
        self.opener = urllib.request.build_opener(_HttpOnly)

    def __call__(self, url: str) -> Fetched:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            return Fetched(failure="not an http(s) address")
        for attempt in range(self.options.retries + 1):
            self._wait_for_turn(parts.netloc)
            try:
                return Fetched(self._fetch(url))
            except _FetchError as error:
                if not error.again or attempt == self.options.retries or error.wait > LONGEST_WAIT:
                    return Fetched(failure=str(error), gone=error.gone)
                pause = self.options.backoff * 2**attempt * random.uniform(0.5, 1.5)
                if error.wait:
                    self._hold(parts.netloc, error.wait)
                self._sleep(max(pause, error.wait))
        raise AssertionError("the last attempt returns")

    def _wait_for_turn(self, host: str) -> None:
        with self.lock:
            turn = max(time.monotonic(), self.free.get(host, 0.0))
            self.free[host] = turn + 1 / self.options.rate
        self._sleep(turn - time.monotonic())

    def _hold(self, host: str, seconds: float) -> None:
        """No request to a host that asked for a pause, from no connection."""
        with self.lock:
            self.free[host] = max(self.free.get(host, 0.0), time.monotonic() + seconds)

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise _Stopped

    def _fetch(self, url: str) -> Path:
        target = path_of(url, self.folder)
        unfinished = target.with_suffix(".part")  # left behind by a run that was killed, it is written anew
        with _ask(self.opener, url, self.options.timeout) as response:
            length = response.headers.get("Content-Length", "")
            expected = int(length) if length.isdecimal() else 0
            self._check_size(expected)
            try:
                size = self._save(response, unfinished)
                if size < expected:
                    raise _FetchError(f"the connection broke after {size} of {expected} bytes", again=True)
                if not size:
                    raise _FetchError("the answer is empty", again=True)
                os.replace(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
        return target

    def _save(self, response: Any, path: Path) -> int:
        size = 0
        with path.open("wb") as file:
            while chunk := _receive(response):
                size += len(chunk)
                self._check_size(size)
                file.write(chunk)
                if self.stop.is_set():
                    raise _Stopped
        return size

    def _check_size(self, size: int) -> None:
        if size > self.options.max_bytes:
            raise _FetchError(f"larger than {self.options.max_bytes} bytes, the limit; raise --max_bytes")


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect to ftp:// too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise _FetchError(f"the server sends on to {newurl}, which is not http(s)")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(opener: urllib.request.OpenerDirector, url: str, timeout: float) -> Any:
    try:
        request = urllib.request.Request(in_ascii(url), headers={"User-Agent": "vidcap"})
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            busy = error.code == 429 or error.code >= 500
            wait = _retry_after(error.headers.get("Retry-After", "")) if busy else 0.0
            gone = error.code in GONE
            reason = f"the server answers {error.code} {error.reason}".rstrip()
        raise _FetchError(reason, again=busy, gone=gone, wait=wait) from error
    except (OSError, HTTPException, ValueError) as error:  # URLError and a time-out are OSErrors
        raise _network_error(error) from error


def _receive(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _network_error(error) from error


def _network_error(error: Exception) -> _FetchError:
    """A name that does not exist, a wrong certificate and a malformed address stay so; the rest may pass."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    lasting = isinstance(cause, (ssl.SSLCertVerificationError, ValueError)) or (
        isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
    )
    return _FetchError(f"it cannot be fetched: {cause or type(error).__name__}", again=not lasting)


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3), 0 if there is none that can be read."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
