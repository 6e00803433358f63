"""Progress of long work: a bar on a terminal, otherwise a plain line at least every ten seconds.

A log file gets neither carriage returns nor escapes, and no step of long work is silent in it.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
FIRST_LINE = 4.0  # seconds; shorter work is over before anybody wonders
INTERVAL = 9.0  # seconds between two lines


class Progress:
    """Progress of one piece of work, as a context manager.

    Args:
        description: Name of the work, such as "captions".
        total: Number of items; it can be set once it is known.
        unit: Name of one item.
        shown: `False` shows nothing.

    Attributes:
        seconds_left: Time to the end, for work that knows it better than its throughput tells.

    Example:

    ```python
    >>> with Progress("decoding", total=len(clips)) as progress:
    ...     for clip in clips:
    ...         decode(clip)
    ...         progress.update()
    ```
    """

    def __init__(self, description: str, total: int | None = None, *, unit: str = "clip", shown: bool = True):
        self.description, self.unit = description, unit
        self.count = self._before = 0
        self._total = total
        self.seconds_left: float | None = None
        self._notes: dict[str, object] = {}
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._lines = 0
        self._bar: tqdm | None = None
        if shown and shows_bars():
            self._bar = tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True)
        elif shown:
            threading.Thread(target=self._write_lines, daemon=True).start()

    def start_at(self, count: int) -> None:
        """Starts at a count reached by an earlier run, which does not count for the throughput."""
        self.count = self._before = count
        if self._bar is not None:
            self._bar.initial = self._bar.n = count

    @property
    def total(self) -> int | None:
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def update(self, count: int = 1, **notes: object) -> None:
        """Count finished items; `notes`, such as a loss, are shown beside them until others replace them."""
        self.count += count
        self._notes |= notes
        if self._bar is not None:
            if notes:
                self._bar.set_postfix(self._notes, refresh=False)
            self._bar.update(count)

    def write(self, line: str) -> None:
        """Write a line to standard error, above the bar if there is one."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """End the bar, or the lines, with a last one that gives count and time."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._bar is not None:
            self._bar.close()
        elif self._lines:
            seconds = time.monotonic() - self._began
            self._print(f"{self.description}: {self.count:,} {plural(self.unit, self.count)} in {duration(seconds)}")

    def line(self) -> str:
        """Count, share, throughput and time left."""
        elapsed = max(time.monotonic() - self._began, 1e-9)
        rate = (self.count - self._before) / elapsed
        text = f"{self.description}: {self.count:,}"
        if self._total:
            text += f" of {self._total:,} {plural(self.unit, self._total)} ({self.count / self._total:.0%})"
        else:
            text += f" {plural(self.unit, self.count)}"
        text += f", {rate:.3g} {plural(self.unit, 2)}/s" if rate else f", {duration(elapsed)} so far"
        left = self.seconds_left
        if left is None and self._total and rate:
            left = max(0, self._total - self.count) / rate
        if left is not None:
            text += f", about {duration(left)} left"
        return "".join([text, *(f", {name} {value}" for name, value in self._notes.items())])

    def _write_lines(self) -> None:
        wait = FIRST_LINE
        while not self._ended.wait(wait):
            self._print(self.line())
            self._lines += 1
            wait = INTERVAL

    def _print(self, line: str) -> None:
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


def track(items: Iterable[T], description: str, total: int | None = None, *, unit: str = "clip") -> Iterator[T]:
    """Yield the items; each counts as done when the next is requested."""
    with Progress(description, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.update()


def shows_bars() -> bool:
    """Whether bars can be shown: on a terminal, or in a notebook."""
    return sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def plural(unit: str, count: int) -> str:
    """The singular noun `unit`, in the plural unless `count` is 1."""
    if count == 1:
        return unit
    return f"{unit}es" if unit.endswith(("s", "x", "ch", "sh")) else f"{unit}s"


def duration(seconds: float) -> str:
    """A time for people: "8 s", "3 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
