"""What is no rating log is named for what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.ratings.detection import open_text, read_head, to_utf8
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.formats import inspect_file
from nnsparse_stream.ratings.layout import FieldNames
from nnsparse_stream.ratings.parquet_failures import parquet_failure

TEXT = b"user,item,rating\n" + b"1,2,3\n" * 200


def archive(kind: str) -> bytes:
    sink = io.BytesIO()
    if kind in ("tar", "gz"):
        with tarfile.open(fileobj=sink, mode="w:gz" if kind == "gz" else "w") as tar:
            entry = tarfile.TarInfo("ratings.csv")
            entry.size = len(TEXT)
            tar.addfile(entry, io.BytesIO(TEXT))
    else:
        with zipfile.ZipFile(sink, "w") as packed:
            packed.writestr("[Content_Types].xml" if kind == "xlsx" else "ratings.csv", TEXT)
    return sink.getvalue()


RATINGS = [{"user": 1, "item": 2, "rating": 3.0}] * 20
OTHERS = [
    (archive("tar"), "is a tar archive: unpack it"),
    (archive("gz"), "is a tar archive, compressed with gzip: unpack it"),
    (archive("zip"), "is a zip archive: unpack it"),
    (archive("xlsx"), r"is an Excel workbook \(.xlsx\): save the sheet as CSV"),
    (bz2.compress(TEXT), "is compressed with bzip2: decompress it"),
    (lzma.compress(TEXT), "is compressed with xz: decompress it"),
    (bytes(pa.compress(TEXT, "zstd", asbytes=True)), "is compressed with zstd: decompress it"),
    (json.dumps(RATINGS).encode(), "line 1: this holds a JSON array; write JSON lines"),
    (json.dumps(RATINGS, indent=1).encode(), "line 1: this holds a JSON array"),
    (json.dumps(RATINGS[0], indent=1).encode(), "line 1: this holds JSON over several lines"),
    ("".join(f"{row}\n" for row in RATINGS).encode(), "line 1: this holds Python dictionaries, which are no JSON"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "line 1: this is a web page"),
    (b'<?xml version="1.0"?>\n<ratings/>\n', "line 1: this is XML"),
    (TEXT.replace(b"\n", b"\r"), "line ends are carriage returns alone"),
    (TEXT.decode().encode("utf-16"), "is UTF-16 text; pass `encoding` utf-16"),
    (TEXT.decode().encode("utf-32"), "is UTF-32 text; pass `encoding` utf-32"),
    (TEXT.decode().encode("utf-16-le"), "UTF-16 text without a byte order mark; pass `encoding` utf-16-le"),
    (TEXT.decode().encode("utf-16-be"), "UTF-16 text without a byte order mark; pass `encoding` utf-16-be"),
    (b"SQLite format 3\x00 and so on", "is an SQLite database"),
]


@pytest.mark.parametrize(("data", "message"), OTHERS, ids=[message[:30] for _, message in OTHERS])
def test_what_is_no_rating_log_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        inspect_file(str(tmp_path / "f"), 0, -1, FieldNames())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "shift_jis"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_of_any_encoding_is_read_as_utf8(tmp_path: Path, encoding: str, packed: bool) -> None:
    text = "user,item,rating\n1,2,3\n" * 3000
    text = text if encoding == "latin-1" else text.replace("2", "ア")
    data = text.encode(encoding)
    (tmp_path / "f").write_bytes(gzip.compress(data) if packed else data)
    dialect = Dialect(encoding=encoding).checked()
    head = read_head(str(tmp_path / "f"), (tmp_path / "f").read_bytes()[: 1 << 16], dialect)
    assert to_utf8(head.lines[1], dialect) == text.split("\n")[1].encode()
    with open_text(str(tmp_path / "f"), packed, dialect) as stream:
        stream.read(head.mark)
        assert to_utf8(stream.read(), dialect) == text.encode()


def test_text_that_is_not_of_its_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("user,item,rating\n1,2,3\n".encode("utf-16") + b"\x00\xd8\x00")
    with pytest.raises(InputError, match="is no text in the encoding utf-16"):
        inspect_file(str(tmp_path / "f"), 0, -1, FieldNames(), dialect=Dialect(encoding="utf-16"))


def test_an_error_of_arrow_means_damage_only_where_it_is(tmp_path: Path) -> None:
    cases = [
        (pa.ArrowInvalid("bad magic"), InputError, "f is damaged .bad magic.; fetch the file again"),
        (OSError("unexpected end of stream"), InputError, "f is damaged"),
        (
            OSError(5, "Input/output error"),
            StoreError,
            "f: cannot be read: .*Input/output error; run it again",
        ),
        (pa.ArrowNotImplementedError("LZO"), InputError, "in a way that is not read here .LZO."),
        (pa.ArrowKeyError("ours"), pa.ArrowKeyError, "ours"),
    ]
    for error, kind, message in cases:
        with pytest.raises(kind, match=message):
            raise parquet_failure("f", error, " is damaged")
    pq.write_table(pa.table({"user": [1]}), tmp_path / "f")
    with pytest.raises(InputError, match="is a Parquet file, and `format` is csv"):
        inspect_file(str(tmp_path / "f"), 0, -1, FieldNames(), "csv")
