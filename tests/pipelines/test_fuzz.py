"""Damaged inputs: every record is accounted for, or the command fails with one line and leaves nothing.

`NNSPARSE_STREAM_FUZZ=1000 python -m pytest tests/pipelines/test_fuzz.py` tries a thousand.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.pipelines import cli

CASES = int(os.environ.get("NNSPARSE_STREAM_FUZZ", "24"))
FORMATS = ("csv", "tsv", "movielens", "jsonl", "parquet", "csv.gz")
PIECES = (
    b'"', b"'", b",", b"::", b"\t", b"\n", b"\r\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"nan", b"inf", b"-0",
    b"1e400",
    b"99999999999999999999", b"{", b"}", b"[1]", b"null", b"\\u0000", b"\xe2\x80\xa8", b" ", b"user", b"0" * 300,
)  # fmt: skip


def records_of(generator: random.Random) -> list[dict[str, object]]:
    text_ids = generator.random() < 0.3
    pairs = {(generator.randrange(8), generator.randrange(8)) for _ in range(generator.randrange(1, 40))}
    return [
        {
            "user": f"u{user}" if text_ids else user,
            "item": f"i{item}" if text_ids else item,
            "rating": generator.choice([1, 2.5, 4, 5]),
            "timestamp": generator.randrange(10**9),
        }
        for user, item in sorted(pairs)
    ]


def written(generator: random.Random, records: list[dict[str, object]], kind: str) -> bytes:
    """A file of the records; of Parquet some have nulls, infinities, or other types in places."""
    if kind == "parquet":
        columns = {name: [record[name] for record in records] for name in records[0]}
        for _ in range(generator.randrange(3)):
            name = generator.choice(list(columns))
            place = generator.randrange(len(records))
            columns[name][place] = (
                None if name != "rating" or generator.random() < 0.5 else generator.choice([1e39, float("nan")])
            )
        if generator.random() < 0.1:
            columns["rating"] = [str(value) for value in columns["rating"]]
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink, row_group_size=generator.choice([3, 1000]))
        return sink.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    separator = {"csv": ",", "csv.gz": ",", "tsv": "\t", "movielens": "::"}[kind]
    lines = [separator.join(str(value) for value in record.values()) for record in records]
    if kind != "movielens" and generator.random() < 0.5:
        lines.insert(0, separator.join(records[0]))
    return "".join(line + "\n" for line in lines).encode()


def damaged(generator: random.Random, data: bytes) -> bytes:
    """A few bytes changed, lost, repeated or put in."""
    for _ in range(generator.choice([0, 1, 1, 2, 5])):
        start = generator.randrange(len(data) + 1)
        end = min(len(data), start + generator.choice([0, 1, 3, 40]))
        kind = generator.randrange(4)
        if kind == 0:
            data = data[:start] + generator.choice(PIECES) + data[end:]
        elif kind == 1:
            data = data[:start] + data[end:]
        elif kind == 2:
            data = data[:start] + data[start:end] * 2 + data[end:]
        else:
            data = data[:start] + bytes(generator.randrange(256) for _ in range(end - start)) + data[end:]
    return data


def case(generator: random.Random, where: Path) -> tuple[list[str], bytes | None]:
    """The flags of a run, and the text that it reads; None where that cannot be told or is no text."""
    kind = generator.choice(FORMATS)
    data = written(generator, records_of(generator), kind)
    text: bytes | None = None
    if kind == "parquet":
        data = damaged(generator, data) if generator.random() < 0.3 else data
    else:
        text = data = damaged(generator, data)
        if kind.endswith("gz"):
            data = gzip.compress(data)
            if generator.random() < 0.2:
                text, data = None, damaged(generator, data)
    path = where / f"input.{kind}"
    path.write_bytes(data)
    flags = ["--input", str(path), "--output", str(where / "data"), "--axis", generator.choice(["user", "item"])]
    flags += ["--duplicates", generator.choice(["mean", "first", "last"]), "--max_bad_fraction", "1"]
    if generator.random() < 0.3:
        flags += ["--min_row_ratings", "3", "--min_column_ratings", "2"]
    return flags, text


def check(directory: Path, text: bytes | None) -> None:
    """The manifest's counts are those of what was written, and of what was read."""
    dataset = Dataset(str(directory))
    records = dataset.manifest.records
    entries = sum(len(batch.column("values").flatten()) for batch in dataset.batches())
    letters = [line for file in (directory / "dead_letters").glob("*.jsonl") for line in file.open()]
    assert len(letters) == records["bad"]
    assert all(json.loads(letter)["reason"] for letter in letters)
    assert entries == dataset.manifest.num_entries
    assert records["read"] == entries + records["bad"] + records["filtered"] + records["duplicates"]
    if text is not None:
        lines = sum(bool(line.strip()) for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
        assert records["read"] in (lines, lines - 1)  # the first may be a header


def test_damaged_inputs_lose_no_record_and_show_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Counter[int] = Counter()
    for number in range(CASES):
        where = tmp_path / str(number)
        where.mkdir()
        flags, text = case(random.Random(number), where)
        code = cli.main(["prepare", *flags])
        error = capsys.readouterr().err
        try:
            outcomes[code] += 1
            assert code in (0, 2), error
            assert "Traceback" not in error
            if code == 0:
                check(where / "data", text)
            else:
                assert error.startswith("nnsparse-stream prepare: ")
                assert len(error.splitlines()) == 1
                assert not (where / "data").exists()
        except Exception as problem:
            raise AssertionError(f"case {number}: {flags}: {error}") from problem
        shutil.rmtree(where)
    assert outcomes[0] > outcomes[2] > 0
