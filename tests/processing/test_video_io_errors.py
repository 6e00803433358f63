"""Bad input -> one clear line, and what is fetched from where."""

import http.server
import io
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from processing import VideoDecodeError, decode_video, uniform_indices
from tests import media

COUNT = 40  # frames of most clips here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return media.write_video(folder / "clip.mp4", media.shades(COUNT))


@pytest.fixture(scope="module")
def server(folder: Path, clip: Path) -> Iterator[SimpleNamespace]:
    """Serves the folder on this machine and notes what is asked for; /broken ends early."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            if self.path not in ("/broken", "/endless", "/away", "/empty"):
                return super().do_GET()
            self.send_response(302 if self.path == "/away" else 200)
            if self.path == "/away":
                self.send_header("Location", f"file://{clip}")
            if self.path == "/broken":
                self.send_header("Content-Length", "100000")
            self.end_headers()
            if self.path not in ("/away", "/empty"):
                self.wfile.write(clip.read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}", asked=asked)
        httpd.shutdown()
        thread.join()


def test_url(server):
    assert media.numbers(decode_video(f"{server.url}/clip.mp4").frames) == uniform_indices(COUNT, 16)
    assert server.asked == ["/clip.mp4"]


def write_bad(kind: str, folder: Path, clip: Path):
    shades = media.shades(COUNT)
    streamed = media.move_header_first(clip)
    if kind == "empty":
        (folder / "empty.mp4").touch()
        return folder / "empty.mp4"
    if kind == "text":
        (folder / "notes.txt").write_text("a red square slides left\n" * 40)  # FFmpeg draws a .txt as a video
        return folder / "notes.txt"
    if kind == "no images":
        (folder / "nothing").mkdir()
        return folder / "nothing"
    return {
        "missing": lambda: folder / "missing.mp4",
        "other scheme": lambda: "s3://bucket/clip.mp4",
        "other machine": lambda: "file://elsewhere/clip.mp4",
        "cut mp4": lambda: media.cut(streamed, 0.6),
        "cut mp4 without header": lambda: media.cut(clip, 0.6),
        "cut mkv": lambda: media.cut(media.write_video(folder / "a.mkv", shades), 0.6),
        "cut webm": lambda: media.cut(media.write_video(folder / "a.webm", shades, codec="libvpx"), 0.6),
        "cut avi": lambda: media.cut(media.write_video(folder / "a.avi", shades, codec="mpeg4"), 0.6),
        "cut gif": lambda: media.cut(media.write_animation(folder / "a.gif", shades, 50), 0.6),
        "cut webp": lambda: media.cut(media.write_animation(folder / "a.webp", shades, 50), 0.6),
        "cut apng": lambda: media.cut(media.write_animation(folder / "a.png", shades, 50), 0.6),
        "damaged mp4": lambda: media.damage(
            media.move_header_first(media.write_video(folder / "a.mp4", media.texture(COUNT))), 0.5, 0.8
        ),
        "damaged gif": lambda: media.damage(media.write_animation(folder / "a.gif", shades, 50), 0.5, 0.8),
        "no frames": lambda: media.write_empty_video(folder / "a.mkv"),
        "only sound": lambda: media.write_sound(folder / "a.wav"),
        "text file object": lambda: io.StringIO("text"),
        "number": lambda: 3,
        "three axes": lambda: np.zeros((4, 8, 8), np.uint8),
        "no channels": lambda: np.zeros((4, 8, 8, 2), np.uint8),
        "either channels": lambda: np.zeros((4, 3, 8, 3), np.uint8),
        "no array frames": lambda: np.zeros((0, 8, 8, 3), np.uint8),
        "floats to 255": lambda: np.full((4, 8, 8, 3), 200.0),
        "large integers": lambda: np.full((4, 8, 8, 3), 300),
        "frames of two sizes": lambda: [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)],
        "list of paths": lambda: ["a.mp4", "b.mp4"],
        "dict of video": lambda: {"video": "a.mp4"},
    }[kind]()


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("text", "not a video"),
        ("no images", "no images"),
        ("other scheme", "s3://"),
        ("other machine", "'elsewhere'"),
        ("cut mp4", r"truncated: \d+ of 40 frames can be read"),
        ("cut mp4 without header", "truncated: no frame can be read"),
        ("cut mkv", r"truncated: \d+ frames can be read"),
        ("cut webm", r"truncated: \d+ frames can be read"),
        ("cut avi", r"truncated: \d+ of 40 frames can be read"),
        ("cut gif", r"truncated: the file ends after 2\d complete frames"),
        ("cut webp", r"truncated: the file ends after 2\d complete frames"),
        ("cut apng", r"truncated: the file ends after 2\d complete frames"),
        ("damaged mp4", r"damaged: frame \d+ of 40, at \d\.\d\d s, cannot be decoded"),
        ("damaged gif", "damaged|truncated"),
        ("no frames", "no frames"),
        ("only sound", "not a video: there is only sound"),
        ("text file object", "binary mode"),
        ("number", "not a known kind of video"),
        ("three axes", "4 axes"),
        ("no channels", "1, 3 or 4 channels"),
        ("either channels", "input_data_format"),
        ("no array frames", "no frames"),
        ("floats to 255", r"\[0, 1\]"),
        ("large integers", r"\[0, 255\]"),
        ("frames of two sizes", "differ in size"),
        ("list of paths", "a list that is one clip"),
        ("dict of video", "'path' or 'bytes'"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, clip, capfd, kind, reason):
    copy = tmp_path / clip.name
    copy.write_bytes(clip.read_bytes())
    source = write_bad(kind, tmp_path, copy)
    with pytest.raises(VideoDecodeError, match=reason) as caught:
        decode_video(source)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(caught.value.source)
    assert capfd.readouterr().err == ""  # FFmpeg's own messages do not reach the terminal
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.source, again.reason) == (caught.value.source, caught.value.reason)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_limits(tmp_path, name):
    path = tmp_path / name
    if name == "a.mp4":
        media.write_video(path, media.shades(COUNT))
    else:
        media.write_animation(path, media.shades(COUNT), 50)
    with pytest.raises(VideoDecodeError, match="3072 pixels.*raise max_frame_pixels"):
        decode_video(path, max_frame_pixels=3071)
    with pytest.raises(VideoDecodeError, match="more than 39 frames.*raise max_clip_frames"):
        decode_video(path, max_clip_frames=39)
    assert len(decode_video(path, max_frame_pixels=3072, max_clip_frames=40).frames) == 16


@pytest.mark.parametrize(
    "path, options, reason",
    [
        ("missing.mp4", {}, "the server answers 404"),
        ("broken", {}, r"the connection broke after \d+ of 100000 bytes"),
        ("empty", {}, "the answer is empty"),
        ("away", {}, r"redirects to file://.*not http\(s\)"),
        ("clip.mp4", {"max_download_bytes": 100}, "more than 100 bytes.*raise max_download_bytes"),
        ("endless", {"max_download_bytes": 100}, "more than 100 bytes.*raise max_download_bytes"),
    ],
)
def test_bad_urls(server, path, options, reason):
    with pytest.raises(VideoDecodeError, match=reason):
        decode_video(f"{server.url}/{path}", **options)


def test_no_server():
    with pytest.raises(VideoDecodeError, match="cannot be fetched"):
        decode_video("http://127.0.0.1:9/clip.mp4", timeout=5.0)


def test_a_playlist_fetches_nothing(tmp_path, server):
    before = list(server.asked)
    playlist = tmp_path / "clip.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{server.url}/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoDecodeError, match="not a video"):
        decode_video(playlist)
    assert server.asked == before


def test_unknown_and_wrong_options(clip):
    with pytest.raises(TypeError, match="num_frame"):
        decode_video(clip, num_frame=8)
    for options in ({"num_frames": 0}, {"threads": -1}, {"frame_rate": 0}, {"interpolation": "nearest"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            decode_video(clip, **options)
