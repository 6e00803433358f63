"""Tiny GIFs, each of its own content, and a server on 127.0.0.1 that serves them well or badly."""

import functools
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@functools.cache
def gif(number: int, frames: int = 3) -> bytes:
    """A GIF of 16 x 16 pixels that no other number has: a square moves over a background that spells it."""
    images = []
    for index in range(frames):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:2] = np.array([255 * (number >> bit & 1) for bit in range(16)], np.uint8)[None, :, None]
        pixels[6:10, 4 * index : 4 * index + 4] = (250, 40, 40)
        images.append(Image.fromarray(pixels))
    file = BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=100, loop=0)
    return file.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # a short queue drops connections, which come again after a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is what some tests want; its traceback would stand in the output of others."""


class ClipServer:
    """Serves `/NUMBER.gif`. What it does wrong is in its sets of numbers, which a test may change between two runs.

    Attributes:
        asked: How often each path was asked for.
        times: When something was asked for, in seconds.
        dead, still, slow, truncated, busy: Numbers that get 404, one frame, an answer that takes its time, less than
            is announced, and 503 the first time.
        statuses: Other numbers and the status that they get.
        headers: Sent with every status but 200.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.dead, self.still, self.slow, self.truncated, self.busy = (set[int]() for _ in range(5))
        self.statuses: dict[int, int] = {}
        self.headers: dict[str, str] = {}
        clips = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                clips.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked[request.path] += 1
        self.times.append(time.monotonic())
        number = int(request.path.strip("/").partition(".")[0])
        first = self.asked[request.path] == 1
        statuses = self.statuses | dict.fromkeys(self.dead, 404) | (dict.fromkeys(self.busy, 503) if first else {})
        if number in statuses:
            request.send_response(statuses[number])
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.end_headers()
            return
        if number in self.slow:
            time.sleep(0.05)
        body = gif(number, frames=1 if number in self.still else 3)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) + 100 * (number in self.truncated)))
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> "ClipServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def refused_clips(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
