"""What the first bytes of a file show: a format, a compression, an encoding, or a thing that is no rating log."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from typing import IO, Any, NamedTuple

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.storage import files as storage

BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 1 << 16
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)

_UNPACK = "decompress it first; only gzip is read"
_CONVERT = "write it as Parquet, CSV or JSON lines"
#: How files begin that are no rating logs, what they are, and what to do.
_OTHERS = {
    b"BZh": ("is compressed with bzip2", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", _UNPACK),
    b"\xfd7zXZ": ("is compressed with xz", _UNPACK),
    b"\x04\x22\x4d\x18": ("is compressed with lz4", _UNPACK),
    b"\xff\x06\x00\x00sNaPpY": ("is compressed with snappy", _UNPACK),
    b"\x1f\x9d": ("is compressed with compress (.Z)", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("is a 7z archive", "unpack it, and give the files in it"),
    b"Rar!": ("is a RAR archive", "unpack it, and give the files in it"),
    b"PK\x03\x04": ("is a zip archive", "unpack it, and give the files in it"),
    b"\xd0\xcf\x11\xe0": ("is an Excel workbook (.xls)", "save the sheet as CSV"),
    b"PARE": ("is an encrypted Parquet file", "decrypt it first"),
    b"ARROW1": ("is an Arrow IPC file", _CONVERT),
    b"ORC": ("is an ORC file", _CONVERT),
    b"Obj\x01": ("is an Avro file", _CONVERT),
    b"SQLite format 3\x00": ("is an SQLite database", _CONVERT),
    b"\x89HDF": ("is an HDF5 file", _CONVERT),
    b"\x93NUMPY": ("is a NumPy array", _CONVERT),
    b"\x80\x04\x95": ("is a Python pickle", _CONVERT),
    b"\x80\x05\x95": ("is a Python pickle", _CONVERT),
    b"%PDF": ("is a PDF document", _CONVERT),
}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class Head(NamedTuple):
    """The beginning of a text file.

    Attributes:
        lines: its first whole lines, in the file's encoding; in UTF-8 where that is not `Dialect.is_bytewise`.
        mark: bytes of the byte order mark before them.
        compressed: whether it is compressed with gzip.
        ended: whether these are all its lines.
    """

    lines: list[bytes]
    mark: int
    compressed: bool
    ended: bool


def read_head(url: str, start: bytes, dialect: Dialect) -> Head:
    """Reads the first lines of a text file.

    Args:
        url: the file.
        start: its first `HEAD_BYTES`, as they are stored.
        dialect: of which the encoding counts.

    Raises:
        InputError: the file is no text in lines: the message says what it is.
    """
    _refuse_others(url, start)
    compressed = start.startswith(b"\x1f\x8b")
    if compressed or not (dialect.is_utf8 or dialect.is_bytewise):
        try:
            with open_text(url, compressed, dialect) as stream:
                head = stream.read(HEAD_BYTES)
        except GZIP_ERRORS as error:
            raise damaged_gzip(url) from error
    else:
        head = start
    ended = len(head) < HEAD_BYTES
    _refuse_archives_and_encodings(url, head, dialect, compressed)
    if b"\n" not in head and head.count(b"\r") > 1:
        raise InputError(
            f"{url}: its line ends are carriage returns alone, as on old Macs; convert them to line breaks (LF), for "
            "instance with tr '\\r' '\\n'"
        )
    if not ended and b"\n" not in head:
        raise InputError(f"{url} is no text file of ratings: there is no line break in its first {HEAD_BYTES} bytes")
    whole = head if ended else head[: head.rindex(b"\n")]
    text = whole.removeprefix(BOM)
    return Head(text.split(b"\n"), len(whole) - len(text), compressed, ended)


def refuse_other_text(url: str, first: str) -> None:
    """Raises InputError where the first line of a text is that of a thing known to be no rating log."""
    begin = first.lstrip()
    if begin.startswith("["):
        what, remedy = "holds a JSON array", "write JSON lines: one object a line, without brackets and commas around"
    elif begin.startswith(("{'", '{u"', "{u'", "{1", "{2")):
        what, remedy = "holds Python dictionaries, which are no JSON", "write JSON lines: each by json.dumps"
    elif begin.rstrip() == "{":
        what, remedy = "holds JSON over several lines", "write JSON lines: one object a line"
    elif begin.lower().startswith(("<!doctype html", "<html")):
        what, remedy = "is a web page (HTML)", "fetch the file that it links to, or look for an error message in it"
    elif begin.startswith("<"):
        what, remedy = "is XML", _CONVERT
    else:
        return
    raise InputError(f"{url}, line 1: this {what}; {remedy}")


def open_text(url: str, compressed: bool, dialect: Dialect) -> Any:
    """Opens a text file as a stream of its text: decompressed, and in UTF-8 unless each byte is a character."""
    stream = storage.open_input(url, "gzip" if compressed else None)
    if dialect.is_utf8 or dialect.is_bytewise:
        return stream
    return io.BufferedReader(_Recoded(stream, url, dialect.encoding), buffer_size=1 << 16)


def to_utf8(data: bytes, dialect: Dialect) -> bytes:
    """Lines of a stream from `open_text` in UTF-8; what its encoding does not know stays as it is, and is not UTF-8."""
    if dialect.is_utf8 or not dialect.is_bytewise:
        return data
    return data.decode(dialect.encoding, errors="surrogateescape").encode(errors="surrogateescape")


def damaged_gzip(url: str) -> InputError:
    """The error for a gzip file that ends early or is damaged; it says how many whole lines can be read."""
    lines = 0
    decompressor = zlib.decompressobj(wbits=31)
    with storage.open_input(url) as stream:
        try:
            while piece := stream.read(HEAD_BYTES):
                lines += decompressor.decompress(piece).count(b"\n")
                while decompressor.eof and decompressor.unused_data:  # a file may hold several members
                    rest, decompressor = decompressor.unused_data, zlib.decompressobj(wbits=31)
                    lines += decompressor.decompress(rest).count(b"\n")
        except zlib.error:
            pass
    return InputError(f"{url}: its gzip data ends early or is damaged after line {lines}; fetch the file again")


class _Recoded(io.RawIOBase):
    """A stream of text in any encoding as UTF-8."""

    def __init__(self, stream: IO[bytes], url: str, encoding: str) -> None:
        super().__init__()
        self._stream, self._url, self._encoding = stream, url, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            piece = self._stream.read(len(buffer))
            self._ended = not piece
            try:
                self._ready = self._decoder.decode(piece, final=self._ended).encode()
            except UnicodeError as error:
                raise InputError(
                    f"{self._url} is no text in the encoding {self._encoding} ({storage.one_line(error)}); name "
                    "another `encoding`"
                ) from error
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _refuse_others(url: str, start: bytes) -> None:
    for prefix, (what, remedy) in _OTHERS.items():
        if start.startswith(prefix):
            if prefix == b"PK\x03\x04" and (b"[Content_Types].xml" in start or b"xl/" in start):
                what, remedy = "is an Excel workbook (.xlsx)", "save the sheet as CSV"
            raise InputError(f"{url} {what}: {remedy}")


def _refuse_archives_and_encodings(url: str, head: bytes, dialect: Dialect, compressed: bool) -> None:
    if head[257:262] == b"ustar":
        packed = "tar archive, compressed with gzip" if compressed else "tar archive"
        raise InputError(f"{url} is a {packed}: unpack it, and give the files in it")
    if compressed and head.startswith(b"PAR1"):
        raise InputError(f"{url} is a Parquet file, compressed with gzip: decompress it first")
    if not dialect.is_utf8:
        return
    if head.startswith(_UTF_32):
        raise InputError(f"{url} is UTF-32 text; pass `encoding` utf-32, or convert it to UTF-8")
    if head.startswith(_UTF_16):
        raise InputError(f"{url} is UTF-16 text; pass `encoding` utf-16, or convert it to UTF-8")
    for place, order in ((1, "le"), (0, "be")):
        halves = head[place:1000:2]
        if len(halves) > 4 and halves.count(0) > 0.8 * len(halves):
            raise InputError(
                f"{url} seems to be UTF-16 text without a byte order mark; pass `encoding` utf-16-{order}, or "
                "convert it to UTF-8"
            )
