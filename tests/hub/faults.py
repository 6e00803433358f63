"""What may go wrong between a client and the Hub of the tests: refusals, waiting, and connections that break."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO


class Cut(ConnectionError):
    """The connection breaks here."""


@dataclass
class Fault:
    """
    What happens to the next `times` requests whose `METHOD /path` holds the regular expression `request`.

    Attributes:
        request: The regular expression.
        status: Answer with this status instead of doing what is asked.
        headers: Headers of that answer, such as `Retry-After`.
        cut_request: Break the connection after so many bytes of the body; nothing is done.
        cut_response: Do what is asked, and break the connection after so many bytes of the answer's body.
        delay: Seconds to wait before anything is answered.
        times: How often.
    """

    request: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_request: int | None = None
    cut_response: int | None = None
    delay: float = 0.0
    times: int = 1


class Line:
    """The wire: counts what passes in both directions, and breaks where it is told to."""

    def __init__(self) -> None:
        self.passed = 0
        self._left: int | None = None
        self._lasting = False
        self._down = False
        self._then: Callable[[], None] | None = None
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def cut(self, after: int, *, lasting: bool = False, then: Callable[[], None] | None = None) -> None:
        """Breaks after so many bytes from now on; `lasting`: until [`mend`]; `then` is called at that moment."""
        with self._lock:
            self._left, self._lasting, self._then = after, lasting, then

    def mend(self) -> None:
        """All works again."""
        with self._lock:
            self._left, self._down, self._then = None, False, None
            self._faults.clear()

    def inject(self, fault: Fault) -> None:
        """Adds a fault."""
        with self._lock:
            self._faults.append(fault)

    def fault(self, request: str) -> Fault | None:
        """The fault that meets a request, counted as having happened."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and re.search(fault.request, request):
                    fault.times -= 1
                    return fault
        return None

    def allow(self, size: int) -> int:
        """How many of `size` bytes pass; fewer mean that the line breaks behind them."""
        with self._lock:
            if self._down:
                return 0
            if self._left is None or size <= self._left:
                self.passed += size
                self._left = None if self._left is None else self._left - size
                return size
            allowed, self._left, self._down = self._left, None, self._lasting
            self.passed += allowed
            then, self._then = self._then, None
        if then is not None:
            then()
        return allowed


class Metered:
    """A stream of one connection over a [`Line`]; `left` is what a fault allows to pass of the present body."""

    def __init__(self, stream: BinaryIO, line: Line) -> None:
        self.stream, self.line = stream, line
        self.left: int | None = None
        self.closed = False

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        pieces = []
        while size > 0:
            piece = self.stream.read(self._allow(min(size, 2**16)))
            pieces.append(piece)
            size -= len(piece)
            if not piece:
                raise Cut
        return b"".join(pieces)

    def readline(self, limit: int = -1) -> bytes:
        """A line of a request's head."""
        line = self.stream.readline(limit)
        if self.line.allow(len(line)) < len(line):
            raise Cut
        return line

    def write(self, data: bytes) -> int:
        """All of `data`, or what comes before the cut."""
        allowed = self._allow(len(data), at_once=False)
        self.stream.write(data[:allowed])
        if allowed < len(data):
            raise Cut
        return allowed

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.closed = True
        self.stream.close()

    def _allow(self, size: int, *, at_once: bool = True) -> int:
        wanted = size if self.left is None else min(size, self.left)
        allowed = self.line.allow(wanted)
        if self.left is not None:
            self.left -= allowed
        if at_once and not allowed:
            raise Cut
        return allowed


def wait(fault: Fault | None) -> None:
    """The slowness of a fault."""
    if fault is not None and fault.delay:
        time.sleep(fault.delay)
