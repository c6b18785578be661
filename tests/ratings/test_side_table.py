"""Files of what is known beside ratings: the same records in any format; plain errors."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.side_table import read_side_table

RECORDS = [(3, "Amélie", "Comedy|Romance"), (1, "", "Drama"), (2, "Heat, the", None)]


def text(delimiter: str) -> str:
    def field(value: object) -> str:
        return f'"{value}"' if delimiter == "," and "," in str(value) else str(value or "")

    return "".join(delimiter.join(map(field, record)) + "\n" for record in RECORDS)


def write(path: Path) -> str:
    header = "id{0}title{0}genres\n"
    if path.suffix == ".parquet":
        pq.write_table(pa.table(list(zip(*RECORDS, strict=True)), names=["id", "title", "genres"]), path)
    elif path.suffix == ".dat":
        path.write_bytes(text("::").encode("latin-1"))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress((header.format(",") + text(",")).encode()))
    else:
        delimiter = {".tsv": "\t", ".csv": ","}[path.suffix]
        path.write_text("\ufeff" + header.format(delimiter) + text(delimiter))
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz", "a.tsv", "a.dat"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    encoding = "latin-1" if name == "a.dat" else "utf-8"
    table = read_side_table(write(tmp_path / name), "int64", encoding)
    assert table.column_names == ["row", *(["1", "2"] if name == "a.dat" else ["title", "genres"])]
    assert table["row"].type == pa.int64()
    rows = [tuple(value or None for value in row.values()) for row in table.to_pylist()]
    assert rows == [tuple(value or None for value in record) for record in RECORDS]


def test_ids_of_digits_are_strings_where_those_of_the_ratings_are(tmp_path: Path) -> None:
    assert read_side_table(write(tmp_path / "a.csv"), "string")["row"].to_pylist() == ["3", "1", "2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id\n1\n", "neither Parquet, CSV, TSV nor '::'"),
        (b'{"id": 1, "year": 2}\n', "neither Parquet, CSV, TSV nor '::'"),
        (b"title,id\nHeat,1\n", "the id Heat in column 'title' is no integer"),
        (b"id,year\n1,2\n1,3\n", "the id 1 has more than one record"),
        (b"id,year\n1,2\n,3\n", "record 2 has no id in column 'id'"),
        (b"id,id\n1,2\n", "give an id and one or more others"),
        (b"id,year\n1,2,3\n", "is no table of text"),
        (b"id,title\n1,Am\xe9lie\n", "name its `encoding`"),
        (b"PAR1 and nothing", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "features"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_side_table(str(path), "int64")
