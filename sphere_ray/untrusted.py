"""Text and files by strangers, in linear time and bounded memory or not at all."""

import codecs
import gzip
import io
import json
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from itertools import islice
from typing import IO, Any

_MAX_MARKS = 30
"""As in the stream-safe format of Unicode's annex 15: sorting more takes quadratic time."""
_MAX_LINE_BYTES = 16 << 20
_MAX_UNPACKED_TIMES = 200
"""Texts unpack to 3 to 30 times their size; what unpacks to more was made to fill memory."""
_ALWAYS_UNPACKED_BYTES = 16 << 20
_PIECE = 1 << 20

_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if not chr(c).isspace()}
_BLANK_LINES = re.compile(r"\n{3,}")
_MAYBE_MARKS = re.compile(f"[^\0-\u02ff]{{{_MAX_MARKS + 1}}}")


class EndlessError(ValueError):
    """A file that never ends, or that was made to fill memory."""


def printable(text: str) -> str:
    """A text as one line that cannot steer a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)


def unusable(text: str) -> str | None:
    """Why a text cannot be written as UTF-8 or brought to NFC in linear time; None if it can."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return str(error.reason)
    if _MAYBE_MARKS.search(text) and _too_many_marks().search(text):
        return f"more than {_MAX_MARKS} combining marks in a row"
    return None


@cache
def _too_many_marks() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.combining(c))
    return re.compile(f"[{marks}]{{{_MAX_MARKS + 1}}}")


def normalise(text: str) -> str:
    """Bring text to Unicode's NFC; drop control characters, repeated blanks and outer blanks.

    Line breaks stay, at most two in a row. Idempotent. Linear for what is not `unusable`.
    """
    text = unicodedata.normalize("NFC", text.translate(_CONTROLS))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a local file that ends within `most` bytes.

    Raises:
        EndlessError: it is longer, or a pipe or a device.
        OSError: it cannot be read.
    """
    # Opened without waiting: a pipe that nobody writes to would hold us for ever.
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        require_regular(status)
        if status.st_size > most:
            raise EndlessError(f"it has more than {most >> 20} MiB")
        data = b"".join(islice(iter(partial(file.read, _PIECE), b""), most // _PIECE + 1))
    if len(data) > most:
        raise EndlessError(f"it has more than {most >> 20} MiB")
    return data


def require_regular(status: os.stat_result) -> None:
    """Check that a path is a file or a directory.

    Raises:
        EndlessError: it is a pipe, a device or a socket.
    """
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise EndlessError("it is a pipe or a device, so it may never end; use a file")


class Unpacked(io.RawIOBase):
    """The content of a gzip file, but not of one that was made to fill memory."""

    def __init__(self, packed: IO[bytes]) -> None:
        """Unpack what `packed` gives."""
        self._packed = packed
        self._content = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises:
            EndlessError: a small file has unpacked to a huge one.
        """
        count = self._content.readinto(buffer)
        if self._content.tell() > max(
            _MAX_UNPACKED_TIMES * self._packed.tell(), _ALWAYS_UNPACKED_BYTES
        ):
            raise EndlessError(f"it unpacks to more than {_MAX_UNPACKED_TIMES} times its size")
        return count


def text_lines(file: IO[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 text, without its byte order mark.

    Raises:
        UnicodeDecodeError: it is something else.
        EndlessError: a line is longer than any text.
    """
    is_first = True
    while line := file.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES:
            raise EndlessError(f"a line has more than {_MAX_LINE_BYTES >> 20} MiB")
        yield (line.removeprefix(codecs.BOM_UTF8) if is_first else line).decode("utf-8")
        is_first = False


class JsonReader:
    """Decodes JSON and notes a key that is there twice, of which plain JSON keeps the last."""

    def __init__(self) -> None:
        """Nothing is noted yet."""
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.twice: str | None = None
        """A key that an object of the last value has twice."""

    def decode(self, text: str, begin: int = 0) -> tuple[Any, int]:
        """The value that begins at a place, and where it ends.

        Raises:
            ValueError, RecursionError: it is not JSON, or nested too deeply.
        """
        self.twice = None
        return self._decoder.raw_decode(text, begin)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self.twice = next(name for name, count in counts.items() if count > 1)
        return found
