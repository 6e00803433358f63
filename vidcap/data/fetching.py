"""URLs -> files, politely and resumably.

At most `rate` requests per second go to one host, over all connections. A server that is busy (429, 5xx), silent or
breaks off is asked again, each time after a longer pause; one that refuses (any other 4xx) is not. A file appears
complete or not at all, under the hash of its URL, so that a second run asks only for what is missing. URLs that are
gone for good (404, 410) are noted in `gone.jsonl` beside the files and not asked for again.

Limitations: robots.txt is not read, cookies are not kept, and `rate` ignores hosts that only a redirect leads to.
"""

import hashlib
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from processing.downloads_vidcap import DownloadError, download, make_client
from processing.support.progress import Progress

from ..files import read_notes

GONE = (404, 410)
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is left to the next run


@dataclass(frozen=True)
class FetchOptions:
    """
    Options for fetching.

    Args:
        connections: URLs fetched at once.
        rate: Most requests per second to one host.
        timeout: Seconds that a server may stay silent.
        retries: Further attempts after a request that failed.
        backoff: Seconds before the first of these; they double each time, and vary by half to spread the load.
        max_bytes: Largest file.
        retry_gone: Ask again for URLs that were gone.

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


class _Stopped(Exception):
    """Another URL ended the run."""


def path_of(url: str, folder: Path) -> Path:
    """The path at which the file of a URL is kept."""
    return folder / hashlib.sha256(url.encode()).hexdigest()[:32]


def fetch_all(urls: Iterable[str], folder: Path, options: FetchOptions) -> dict[str, Fetched]:
    """Fetch the files that are missing.

    Args:
        urls: http(s) addresses; repeated ones are fetched once.
        folder: Where the files are kept, created where needed.
        options: How to fetch.

    Returns:
        The result for each URL.

    Raises:
        OSError: If a file cannot be written. Failures of the network are in the result.
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
    failed = 0
    with (
        fetcher.client,
        ThreadPoolExecutor(options.connections) as pool,
        memory.open("a", encoding="utf-8") as notes,
        Progress("fetching", total=len(missing), unit="file") as progress,
    ):
        try:
            futures = {pool.submit(fetcher, url): url for url in missing}
            for future in as_completed(futures):
                url = futures[future]
                results[url] = future.result()
                if results[url].path is None:
                    failed += 1
                    progress.total = len(futures) - failed  # of files that can still come
                    progress.update(0, failed=failed)
                else:
                    progress.update()
                if results[url].gone:
                    notes.write(json.dumps({"url": url, "reason": results[url].failure}) + "\n")
                    notes.flush()
        except BaseException:  # also from the keyboard: waiting URLs must not keep the process alive
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
        self.client = make_client(options.timeout)

    def __call__(self, url: str) -> Fetched:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            return Fetched(failure="not an http(s) address")
        for attempt in range(self.options.retries + 1):
            self._wait_for_turn(parts.netloc)
            try:
                return Fetched(self._fetch(url))
            except DownloadError as error:
                wait = error.retry_after
                if not error.temporary or attempt == self.options.retries or wait > LONGEST_WAIT:
                    return Fetched(failure=str(error), gone=error.status in GONE)
                if wait:
                    self._hold(parts.netloc, wait)
                self._sleep(max(self.options.backoff * 2**attempt * random.uniform(0.5, 1.5), wait))
        raise AssertionError("the last attempt returns")

    def _wait_for_turn(self, host: str) -> None:
        with self.lock:
            turn = max(time.monotonic(), self.free.get(host, 0.0))
            self.free[host] = turn + 1 / self.options.rate
        self._sleep(turn - time.monotonic())

    def _hold(self, host: str, seconds: float) -> None:
        """Keep all connections from a host that asked for a pause."""
        with self.lock:
            self.free[host] = max(self.free.get(host, 0.0), time.monotonic() + seconds)

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise _Stopped

    def _fetch(self, url: str) -> Path:
        target = path_of(url, self.folder)
        unfinished = target.with_suffix(".part")  # left behind by a killed run, it is written anew
        try:
            with unfinished.open("wb") as file:
                for chunk in download(url, self.client, max_bytes=self.options.max_bytes, limit="--max_bytes"):
                    file.write(chunk)
                    if self.stop.is_set():
                        raise _Stopped
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target
