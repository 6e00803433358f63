"""Video files as bytes: what their headers say of their length, and reading one file from several places."""

from contextlib import AbstractContextManager
from typing import IO, Any


class NamelessFile:
    """
    An open file without its name: FFmpeg would let the name's ending decide what the bytes are. It has a position of
    its own, so that several can read one file in turns.
    """

    def __init__(self, file: IO[bytes], lock: AbstractContextManager[Any]):
        self.file, self.lock, self.position = file, lock, 0

    def read(self, size: int = -1) -> bytes:
        with self.lock:
            self.file.seek(self.position)
            data = self.file.read(size)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            with self.lock:
                offset += self.file.seek(0, 2)
        self.position = offset + (self.position if whence == 1 else 0)
        return self.position

    def tell(self) -> int:
        return self.position


def declared_size(file: IO[bytes], size: int) -> int:
    """
    The bytes that a file says it has, to tell a cut-off download from a short clip; 0 if it does not say.

    MP4 and MOV: ISO/IEC 14496-12, section 4.2; AVI: the RIFF chunks of the OpenDML extension; Matroska and WebM: RFC
    8794, sections 4 to 6.
    """
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"RIFF":
        position = 0
        while _read_at(file, position, 4) == b"RIFF":
            length = int.from_bytes(_read_at(file, position + 4, 4), "little")
            if length in (0, 0xFFFFFFFF):  # written while it was not known
                return 0
            position += 8 + length
        return position - 8  # some writers count these 8 bytes twice
    if head[:4] == b"\x1aE\xdf\xa3":
        header, header_bytes = _matroska_number(head[4:12])
        segment = 4 + header_bytes + header
        length, length_bytes = _matroska_number(_read_at(file, segment + 4, 8))
        unknown = length == (1 << 7 * length_bytes) - 1
        return 0 if unknown else segment + 4 + length_bytes + length
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip"):
        position = 0
        while position + 8 <= size:
            box = _read_at(file, position, 16)
            length, kind = int.from_bytes(box[:4], "big"), box[4:8]
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:  # 0: up to the end of the file
                return 0
            position += length
            if kind in (b"moov", b"mdat", b"moof") and position > size:
                return position
    return 0


def _read_at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _matroska_number(data: bytes) -> tuple[int, int]:
    """A number of variable length and how many bytes it takes; the position of its first bit tells."""
    count = 9 - data[0].bit_length() if data and data[0] else 8
    return int.from_bytes(data[:count], "big") & ((1 << 7 * count) - 1), count
