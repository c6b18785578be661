"""Files of ids: one a line, or a field of records in any format."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.dialect import Dialect
from nnsparse_stream.ratings.id_files import plan_ids, read_ids
from nnsparse_stream.ratings.layout import FieldNames


def ids_of(path: Path, id_type: str = "string", dialect: Dialect = Dialect()) -> list:  # noqa: B008 (immutable)
    (file,) = plan_ids([str(path)], "item", FieldNames(), dialect, id_type)
    return [value for part in read_ids(file) for value in part.to_pylist()]


TEXTS = {
    "lines": "a\nb c\n\nd\n",
    "lines under the name": "item\na\nb c\nd",
    "lines with a byte order mark and carriage returns": "\ufeffa\r\nb c\r\nd\r\n",
    "a header": "user,item,rating\nx,a,3\ny,b c,4\nz,d,5\n",
    "a header and quotes": 'item;user\n"a";x\n"b c";y\nd;z\n',
    "JSON lines": '{"item": "a", "user": 1}\n{"item": "b c"}\n{"item": "d"}\n',
    "MovieLens": "7::a::3::978300760\n7::b c::4::978300760\n8::d::1::978300760\n",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("compressed", [False, True])
def test_ids_are_found_in_text(tmp_path, kind, compressed):
    data = TEXTS[kind].encode()
    (tmp_path / "ids").write_bytes(gzip.compress(data) if compressed else data)
    assert ids_of(tmp_path / "ids") == ["a", "b c", "d"]


@pytest.mark.parametrize("names", [["user", "item"], ["whatever"]])
def test_ids_are_found_in_parquet(tmp_path, names):
    columns = {name: pa.array(["3", "1", "3"]).dictionary_encode() for name in names}
    pq.write_table(pa.table(columns), tmp_path / "ids")
    assert ids_of(tmp_path / "ids") == ["3", "1", "3"]
    assert ids_of(tmp_path / "ids", "int64") == [3, 1, 3]


def test_integers_are_read_as_strings_where_ids_are(tmp_path):
    (tmp_path / "ids").write_text("12\n7\n")
    assert ids_of(tmp_path / "ids") == ["12", "7"]
    assert ids_of(tmp_path / "ids", "int64") == [12, 7]
    pq.write_table(pa.table({"item": [12, 7]}), tmp_path / "ids")
    assert ids_of(tmp_path / "ids") == ["12", "7"]


def test_a_line_is_an_id_though_it_holds_a_delimiter(tmp_path):
    (tmp_path / "ids").write_text("Alien, The\nHeat\n")
    assert ids_of(tmp_path / "ids") == ["Alien, The", "Heat"]
    (tmp_path / "none").write_text("")
    assert ids_of(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12\nx7\n", "record 2: 'x7' is no integer of 64 bits"),
        ('{"item": 1}\n{"user": 1}\n', "line 2: there is no id 'item'"),
        ("user,item\n1,2\n3\n", "line 3: there is no id 'item'"),
        ("1\n123456789012345678901\n", "record 2: '123456789012345678901' is no integer of 64 bits"),
    ],
)
def test_what_is_no_id_is_named(tmp_path, text, message):
    (tmp_path / "ids").write_text(text)
    with pytest.raises(InputError, match=message):
        ids_of(tmp_path / "ids", "int64")


def test_parquet_without_the_column_is_refused(tmp_path):
    pq.write_table(pa.table({"user": [1], "movie": [2]}), tmp_path / "ids")
    with pytest.raises(InputError, match="no column 'item'; the columns found are user, movie; pass `item_column`"):
        ids_of(tmp_path / "ids")
    pq.write_table(pa.table({"item": [1, None]}), tmp_path / "ids")
    with pytest.raises(InputError, match="has no item"):
        ids_of(tmp_path / "ids")
