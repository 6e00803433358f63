"""http(s) URLs -> bytes, chunk by chunk.

Guarantees: nothing but http and https is fetched, also after a redirect; an answer that exceeds the size limit, breaks
off or is empty is an error, never a short file.

Limitations: a redirect may lead to any host; the time a server takes to send its bytes one by one is not limited.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

try:  # whichever huggingface_hub brings; exported code is to load with both
    import httpx2
except ImportError:
    import httpx as httpx2  # type: ignore[no-redef]


class DownloadError(Exception):
    """
    A download that failed; the message is the reason, without the URL.

    Args:
        reason (`str`): the fault.
        status (`int`): the server's answer, 0 without one.
        temporary (`bool`): whether a later attempt may succeed.
        retry_after (`float`): seconds that the server asks to wait first.
    """

    def __init__(self, reason: str, *, status: int = 0, temporary: bool = False, retry_after: float = 0.0):
        super().__init__(reason)
        self.status, self.temporary, self.retry_after = status, temporary, retry_after


def make_client(timeout: float) -> httpx2.Client:
    """A client for [`download`], in any thread, that gives up on servers silent for `timeout` seconds."""
    return httpx2.Client(
        follow_redirects=True,
        timeout=timeout,
        limits=httpx2.Limits(max_connections=None),
        headers={"User-Agent": "vidcap", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none are kept
    )


def download(url: str, client: httpx2.Client, *, max_bytes: int, limit: str) -> Iterator[bytes]:
    """
    Fetch a URL.

    Args:
        url (`str`): an http(s) address, escaped or as people write it.
        client (`httpx2.Client`): from [`make_client`].
        max_bytes (`int`): the most that is read.
        limit (`str`): name of the option to raise where that is too little, for the message.

    Raises:
        `DownloadError`: if there is no complete answer within the limit.
    """
    size = expected = 0
    try:
        with client.stream("GET", url) as response:
            if not response.is_success:
                raise _refusal(response)
            announced = response.headers.get("Content-Length", "")
            expected = int(announced) if announced.isdecimal() else 0
            check_size(expected, max_bytes, limit)
            for chunk in limited(response.iter_raw(), max_bytes, limit):
                size += len(chunk)
                yield chunk
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        if isinstance(error, httpx2.RemoteProtocolError) and expected:
            reason = f"the connection broke after {size} of {expected} bytes"
            raise DownloadError(reason, temporary=True) from error
        raise _network_error(error) from error
    if not size:
        raise DownloadError("the answer is empty", temporary=True)


def limited(chunks: Iterable[bytes], max_bytes: int, limit: str) -> Iterator[bytes]:
    """The chunks; [`DownloadError`] once they exceed `max_bytes`, which the option `limit` would raise."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        check_size(size, max_bytes, limit)
        yield chunk


def check_size(size: int, max_bytes: int, limit: str) -> None:
    if size > max_bytes:
        raise DownloadError(f"more than {max_bytes} bytes; raise {limit} to read it")


def _refusal(response: httpx2.Response) -> DownloadError:
    status = response.status_code
    busy = status == 429 or status >= 500
    wait = _retry_after(response.headers.get("Retry-After", "")) if busy else 0.0
    reason = f"the server answers {status} {response.reason_phrase}".rstrip()
    return DownloadError(reason, status=status, temporary=busy, retry_after=wait)


def _network_error(error: Exception) -> DownloadError:
    """A host that does not exist, a wrong certificate and a malformed address remain so; anything else may pass."""
    if isinstance(error, httpx2.UnsupportedProtocol):
        return DownloadError(f"the server redirects to {error.request.url}, which is not http(s)")
    lasting = isinstance(error, (httpx2.InvalidURL, httpx2.TooManyRedirects, ValueError))
    cause: BaseException | None = error
    while cause is not None:
        lasting |= isinstance(cause, ssl.SSLCertVerificationError)
        lasting |= isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        cause = cause.__cause__ or cause.__context__
    return DownloadError(f"it cannot be fetched: {error or type(error).__name__}", temporary=not lasting)


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3), 0 if none can be read."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
