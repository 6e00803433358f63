"""Inputs that are easily taken for something else: URLs with letters of all kinds, deep shades, masks."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from processing import VideoDecodeError, decode_video, uniform_indices
from processing.downloads_vidcap import DownloadError, download, make_client
from tests import media


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def test_urls_are_taken_as_people_write_them(tmp_path):
    urls = {
        "/a b/ä%20.mp4?q=ü&r=%C3%BC": "/a%20b/%C3%A4%20.mp4?q=%C3%BC&r=%C3%BC",
        "/a%2Fb+c.mp4;x?y=1&z=(2)": "/a%2Fb+c.mp4;x?y=1&z=(2)",
    }
    asked = []

    class Listener(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server, make_client(5.0) as client:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for url in urls:
            with pytest.raises(DownloadError, match="404"):
                list(download(f"http://127.0.0.1:{server.server_port}{url}", client, max_bytes=99, limit="max_bytes"))
        server.shutdown()
    assert asked == list(urls.values())
    media.write_video(tmp_path / "ein Café.mp4", media.shades(20))
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        clip = decode_video(f"http://127.0.0.1:{server.server_port}/ein Café.mp4")
        assert media.numbers(clip.frames) == uniform_indices(20, 16)
        server.shutdown()


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_images_of_sixteen_bits_keep_their_shades(tmp_path, name):
    shades = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (4, 1))
    Image.fromarray(shades).save(tmp_path / name)
    expected = torch.arange(256, dtype=torch.uint8).expand(1, 3, 4, 256)
    frames = decode_video(tmp_path / name, num_frames=1).frames
    torch.testing.assert_close(frames, expected, atol=1, rtol=0)  # FFmpeg, which reads TIFF, rounds in another way
    assert torch.equal(decode_video([Image.open(tmp_path / name)], num_frames=1).frames, expected)
    deep = Image.fromarray(shades.astype(np.int32))
    with pytest.raises(VideoDecodeError, match=r"32 bits \(mode I\)"):
        decode_video([deep])


def test_numbers_that_are_no_bytes(tmp_path):
    mask = np.zeros((2, 8, 8, 3), bool)
    mask[1] = True
    assert decode_video(mask, num_frames=2).frames.unique().tolist() == [0, 255]
    for wide in (np.uint16, np.uint32, np.uint64):
        array = np.full((1, 8, 8, 3), 255, wide)
        assert decode_video(array, num_frames=1).frames.unique().tolist() == [255]
        with pytest.raises(VideoDecodeError, match=r"integer values from 4000 to 4000.*\[0, 255\]"):
            decode_video(np.full((1, 8, 8, 3), 4000, wide))
