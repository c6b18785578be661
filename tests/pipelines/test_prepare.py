"""prepare, end to end: every format, any split and order, bad records, bad input, kills, other storage."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import kill
from preparing import files_of, prepare, ratings_of
from samples import ROOT

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.manifest import vocabulary_fingerprint
from nnsparse_stream.ratings.folds import FOLDS
from nnsparse_stream.storage import files as storage

Record = tuple[int | str, int | str, float]


def make_records(strings: bool, count: int = 600, seed: int = 0) -> list[Record]:
    """Distinct pairs in a random order."""
    random_ = random.Random(seed)
    pairs = random_.sample([(user, item) for user in range(50) for item in range(40)], count)
    name = (lambda side, x: f"{side}é{x}") if strings else (lambda _, x: x - 5)
    return [(name("u", user), name("i", item), random_.randrange(1, 11) / 2) for user, item in pairs]


def write(path: Path, records: list[Record]) -> None:
    """Writes ratings in the format that the name says."""
    suffixes = path.suffixes
    if suffixes[0] == ".parquet":
        users, items, ratings = zip(*records, strict=True)
        table = pa.table({"user": users, "item": items, "rating": pa.array(ratings, pa.float64())})
        pq.write_table(table, path, row_group_size=100)
        return
    if suffixes[0] == ".jsonl":
        lines = [json.dumps({"rating": rating, "user": user, "item": item}) for user, item, rating in records]
    else:
        separator = {".csv": ",", ".tsv": "\t", ".dat": "::"}[suffixes[0]]
        lines = [separator.join([str(user), str(item), str(rating), "978300760"]) for user, item, rating in records]
        if suffixes[0] == ".csv":
            lines.insert(0, "user,item,rating,time")
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if suffixes[-1] == ".gz" else data)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("axis", ["user", "item"])
def test_formats_splits_and_orders_give_the_same_bytes(tmp_path: Path, strings: bool, axis: str) -> None:
    records = make_records(strings)
    flags = ["--axis", axis, "--folds", "60,20,20", "--num_shards", 3]
    layouts = {
        "one": ["a.parquet"],
        "three": ["b.csv", "a.csv.gz", "c.tsv"],
        "mixed": ["x.dat", "y.jsonl", "z.jsonl.gz", "w.dat.gz", "v.parquet"],
    }
    results = []
    for seed, (layout, names) in enumerate(layouts.items()):
        shuffled = records.copy()
        random.Random(seed).shuffle(shuffled)
        (tmp_path / layout).mkdir()
        for place, name in enumerate(names):
            write(tmp_path / layout / name, shuffled[place :: len(names)])
        assert prepare("--input", tmp_path / layout, "--output", tmp_path / "out" / layout, *flags) == 0
        results.append(files_of(str(tmp_path / "out" / layout)))
    assert sorted(results[0]) == [
        "columns/part-00000-of-00001.parquet",
        "manifest.json",
        *(f"rows/shard-{shard:05d}-of-00003.parquet" for shard in range(3)),
    ]
    assert results[1] == results[0]
    assert results[2] == results[0]
    found = ratings_of(str(tmp_path / "out" / "one"))
    swap = axis == "item"
    assert {entry[:3] for entry in found} == {((i, u) if swap else (u, i)) + (r,) for u, i, r in records}
    manifest = Dataset(str(tmp_path / "out" / "one")).manifest
    assert manifest.records == {"read": 600, "bad": 0, "filtered": 0, "duplicates": 0}
    counts = [manifest.fold_entries[fold] for fold in FOLDS]
    assert counts == np.bincount([entry[3] for entry in found]).tolist()
    assert (manifest.row_id_type, manifest.column_id_type) == (("string",) * 2 if strings else ("int64",) * 2)
    train = [value for _, _, value, fold in found if fold == 0]
    assert manifest.ratings["mean"] == pytest.approx(np.mean(train))
    assert manifest.ratings["std"] == pytest.approx(np.std(train))


def test_explicit_folds(tmp_path: Path) -> None:
    records = make_records(strings=True, count=30)
    for name, part in (("train", records[:20]), ("valid", records[20:25]), ("test", records[25:])):
        write(tmp_path / f"{name}.csv", part)
    flags = ["--train_input", tmp_path / "train.csv", "--validation_input", tmp_path / "valid.csv"]
    assert prepare(*flags, "--test_input", tmp_path / "test.csv", "--output", tmp_path / "out", "--axis", "user") == 0
    expected = [(*record, 0 if place < 20 else 1 if place < 25 else 2) for place, record in enumerate(records)]
    assert sorted(ratings_of(str(tmp_path / "out"))) == sorted(expected)
    manifest = Dataset(str(tmp_path / "out")).manifest
    assert manifest.folds == {"method": "files"}
    assert manifest.fold_entries == {"train": 20, "validation": 5, "test": 5}


@pytest.mark.parametrize(("policy", "value"), [("first", 5.0), ("last", 1.0), ("mean", 2.5)])
@pytest.mark.parametrize("timed", [True, False])
def test_duplicates(tmp_path: Path, policy: str, value: float, timed: bool) -> None:
    # By time the order is 5, 1.5, 1; so it is by position in the files' order.
    (tmp_path / "a.dat").write_text(
        "1::2::5::10\n3::2::4::10\n1::2::1.5::20\n" if timed else "1::2::5\n3::2::4\n1::2::1.5\n"
    )
    (tmp_path / "b.dat").write_text("1::2::1::30\n" if timed else "1::2::1\n")
    order = ["b.dat", "a.dat"] if timed else ["a.dat", "b.dat"]
    urls = ",".join(str(tmp_path / name) for name in order)
    assert prepare("--input", urls, "--output", tmp_path / "out", "--axis", "user", "--duplicates", policy) == 0
    assert [entry[:3] for entry in ratings_of(str(tmp_path / "out"))] == [(1, 2, value), (3, 2, 4.0)]
    assert Dataset(str(tmp_path / "out")).manifest.records == {"read": 4, "bad": 0, "filtered": 0, "duplicates": 2}


def test_bad_records_go_to_dead_letters_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.csv", make_records(strings=False, count=200))
    with (tmp_path / "a.csv").open("a") as file:
        file.write("\n1,2,nan,0\n\noops\n")
    out = tmp_path / "out"
    assert prepare("--input", tmp_path / "a.csv", "--output", out, "--axis", "user", "--max_bad_fraction", 0.01) == 0
    letters = [json.loads(line) for path in sorted((out / "dead_letters").iterdir()) for line in path.open()]
    assert letters == [
        {"file": str(tmp_path / "a.csv"), "position": 202, "reason": "rating is not finite", "text": "1,2,nan,0"},
        {"file": str(tmp_path / "a.csv"), "position": 204, "reason": "1 fields where 4 are expected", "text": "oops"},
    ]
    assert Dataset(str(out)).manifest.records == {"read": 202, "bad": 2, "filtered": 0, "duplicates": 0}
    printed = capsys.readouterr().out
    assert "records read  202" in printed
    assert "bad records   2" in printed
    assert (
        prepare(
            "--input",
            tmp_path / "a.csv",
            "--output",
            out,
            "--axis",
            "user",
            "--overwrite",
            "--max_bad_fraction",
            0.0099,
        )
        == 2
    )
    message = capsys.readouterr().err
    assert "2 of 202 records are malformed" in message
    assert f"{tmp_path / 'a.csv'}:202: rating is not finite: 1,2,nan,0" in message
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.dat", "a.jsonl"])
def test_splits_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Not for the data set, for which of two duplicates is the last, for dead letters or for messages."""
    records = make_records(strings=True, count=150)
    write(tmp_path / name, [*records, *((user, item, 4.5) for user, item, _ in records[::3])])
    lines = (tmp_path / name).read_text().split("\n")
    for place in (5, 60, 120):
        lines.insert(place, f"bad {place}")
    (tmp_path / name).write_text("\n".join(lines))
    flags = ["--axis", "item", "--duplicates", "last", "--format"]
    flags += [{".csv": "csv", ".tsv": "tsv", ".dat": "movielens", ".jsonl": "jsonl"}[Path(name).suffix]]
    if name == "a.dat":  # its time column is all the same: let the position decide
        flags += ["--user_column", "0", "--item_column", "1", "--rating_column", "2"]
    found, printed = [], []
    for size in (1 << 20, 1500, 100):
        monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_BYTES", size)
        out = tmp_path / str(size)
        assert prepare("--input", tmp_path / name, "--output", out, *flags, "--max_bad_fraction", 0.1) == 0
        files = files_of(str(out))
        names = sorted(file for file in files if file.startswith("dead_letters/"))
        found.append((b"".join(files.pop(file) for file in names), files))
        assert prepare("--input", tmp_path / name, "--output", tmp_path / "no", *flags, "--max_bad_fraction", 0) == 2
        printed.append(capsys.readouterr().err)
    assert found[1:] == found[:1] * 2
    assert printed[1:] == printed[:1] * 2
    assert [json.loads(line)["position"] for line in found[0][0].splitlines()] == [6, 61, 121]
    assert f"[{tmp_path / name}:6: " in printed[0]


def columns_of(url: Path) -> list[tuple]:
    """Every column of a data set as (id, count), in the order of the indices."""
    vocabulary = Dataset(str(url)).vocabulary()
    return list(zip(vocabulary.ids.to_pylist(), vocabulary.counts.tolist(), strict=True))


def in_parts(monkeypatch: pytest.MonkeyPatch, ids: int) -> None:
    """Makes a part of a vocabulary so small."""
    monkeypatch.setattr("nnsparse_stream.ids.vocabulary_parts.PART_IDS", ids)
    monkeypatch.setattr("nnsparse_stream.ids.vocabulary_parts.SAMPLED_ONE_IN", 2)


@pytest.mark.parametrize("strings", [False, True])
def test_a_vocabulary_in_parts_is_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strings: bool
) -> None:
    write(tmp_path / "a.csv", make_records(strings))
    flags = ["--input", tmp_path / "a.csv", "--axis", "user", "--num_shards", 2, "--output"]
    assert prepare(*flags, tmp_path / "one") == 0
    in_parts(monkeypatch, 7)
    assert prepare(*flags, tmp_path / "several") == 0
    one, several = (files_of(str(tmp_path / name)) for name in ("one", "several"))
    parts = sorted(name for name in several if name.startswith("columns/"))
    assert parts == [f"columns/part-{part:05d}-of-00006.parquet" for part in range(6)]
    assert columns_of(tmp_path / "several") == columns_of(tmp_path / "one")
    assert {name: data for name, data in several.items() if name.startswith("rows/")} == {
        name: data for name, data in one.items() if name.startswith("rows/")
    }
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_BYTES", 500)
    assert prepare(*flags, tmp_path / "again") == 0
    assert files_of(str(tmp_path / "again")) == several


@pytest.mark.parametrize("size", [1 << 20, 3])
def test_an_earlier_vocabulary_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    in_parts(monkeypatch, size)
    nights = [
        "ann,tea,4\nann,rice,5\nbob,tea,2\nbob,milk,3\n",
        "ann,rice,1\ncid,salt,2\ncid,oil,3\nbob,oil,3\ncid,rice,4\n",
        "ann,milk,1\n",
    ]
    flags = ["--axis", "user", "--output"]
    for night, lines in enumerate(nights):
        (tmp_path / f"{night}.csv").write_text("user,item,rating\n" + lines)
        earlier = ["--vocabulary", tmp_path / f"out{night - 1}"] if night else []
        assert prepare("--input", tmp_path / f"{night}.csv", *earlier, *flags, tmp_path / f"out{night}") == 0
    found = [columns_of(tmp_path / f"out{night}") for night in range(3)]
    assert found[0] == [("tea", 2), ("milk", 1), ("rice", 1)]
    assert found[1] == [("tea", 0), ("milk", 0), ("rice", 2), ("oil", 2), ("salt", 1)]
    assert found[2] == [("tea", 0), ("milk", 1), ("rice", 0), ("oil", 0), ("salt", 0)]
    assert ("cid", "oil", 3.0) in [entry[:3] for entry in ratings_of(str(tmp_path / "out1"))]
    first, second, third = (Dataset(str(tmp_path / f"out{night}")).manifest for night in range(3))
    lineage = [
        {"fingerprint": vocabulary_fingerprint(manifest), "num_columns": manifest.num_columns}
        for manifest in (first, second)
    ]
    assert first.earlier_vocabularies == ()
    assert list(second.earlier_vocabularies) == lineage[:1]
    assert list(third.earlier_vocabularies) == lineage


def test_an_earlier_vocabulary_must_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("user,item,rating\n1,x,3\n")
    (tmp_path / "b.csv").write_text("user,item,rating\n1,7,3\n")
    assert prepare("--input", tmp_path / "a.csv", "--output", tmp_path / "old", "--axis", "user") == 0
    for name, axis, message, *flags in (
        ("a.csv", "user", "keeps every earlier column", "--min_column_ratings", "2"),
        ("b.csv", "user", "holds item ids of type string, and the input int64; pass --id_type string"),
        ("a.csv", "item", "has rows by user: its columns are not those of --axis item"),
    ):
        earlier = ["--vocabulary", tmp_path / "old", *flags]
        assert prepare("--input", tmp_path / name, "--output", tmp_path / "new", "--axis", axis, *earlier) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    flags = ["--input", tmp_path / "a.csv", "--output", tmp_path / "old", "--axis", "user", "--overwrite"]
    assert prepare(*flags, "--vocabulary", tmp_path / "old") == 2
    assert "name another" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bad_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of files that are at fault, each in its way."""
    where = tmp_path_factory.mktemp("bad")
    (where / "good.csv").write_text("user,item,rating\n1,2,3\n")
    (where / "empty.csv").write_text("")
    (where / "header.csv").write_text("user,item,rating\n")
    (where / "columns.csv").write_text("userId,movieId,rating\n1,2,3\n")
    for name, value in (("text", "x"), ("nan", "nan"), ("inf", "inf")):
        (where / f"{name}.csv").write_text(f"user,item,rating\n1,2,3\n1,3,{value}\n")
    (where / "null_id.csv").write_text("user,item,rating\n1,2,3\n,3,4\n")
    (where / "null_id.jsonl").write_text('{"user":1,"item":2,"rating":3}\n{"user":null,"item":3,"rating":4}\n')
    pq.write_table(pa.table({"user": [1, None], "item": [2, 3], "rating": [3, 4]}), where / "null_id.parquet")
    (where / "duplicate.csv").write_text("user,item,rating\n1,2,3\n5,5,5\n1,2,4\n")
    write(where / "whole.csv.gz", make_records(strings=False))
    write(where / "whole.parquet", make_records(strings=False))
    for name in ("csv.gz", "parquet"):
        data = (where / f"whole.{name}").read_bytes()
        (where / f"cut.{name}").write_bytes(data[: len(data) * 2 // 3])
    (where / "emptydir").mkdir()
    (where / "file").write_text("x")
    return where


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--input", "nope.csv"], ["nope.csv: no such file"]),
        (["--input", "*.nope"], ["*.nope matches no files"]),
        (["--input", "emptydir"], ["emptydir matches no files"]),
        (["--input", "good.csv,good.csv"], ["good.csv is named more than once"]),
        (["--input", "empty.csv"], ["the input holds no record: all its files are empty, the first is empty.csv"]),
        (["--input", "header.csv"], ["the input holds no record", "header.csv"]),
        (
            ["--input", "columns.csv"],
            ["columns.csv, line 1: there is no column 'user'", "userId, movieId", "--user_column"],
        ),
        (["--input", "good.csv", "--rating_column", "stars"], ["no column 'stars'", "--rating_column"]),
        (["--input", "good.csv", "--timestamp_column", "when"], ["no column 'when'", "--timestamp_column"]),
        (["--input", "text.csv"], ["text.csv:3: rating is not a number: 1,3,x", "1 of 2 records"]),
        (["--input", "nan.csv"], ["nan.csv:3: rating is not finite: 1,3,nan"]),
        (["--input", "inf.csv"], ["inf.csv:3: rating is not finite: 1,3,inf"]),
        (["--input", "null_id.csv"], ["null_id.csv:3: user is empty: ,3,4"]),
        (["--input", "null_id.jsonl"], ["null_id.jsonl:2: user is null"]),
        (["--input", "null_id.parquet"], ["null_id.parquet:2: user is null"]),
        (
            ["--input", "duplicate.csv"],
            ["user 1 rated item 2 more than once", "duplicate.csv, line 2 and", "line 4", "--duplicates"],
        ),
        (["--input", "cut.csv.gz"], ["cut.csv.gz: its gzip data ends early", "after line"]),
        (["--input", "cut.parquet"], ["cut.parquet is not a whole Parquet file"]),
        (["--input", "good.csv", "--format", "jsonl"], ["good.csv, line 1: this is no JSON object"]),
        (["--input", "good.csv", "--format", "parquet"], ["good.csv is not a whole Parquet file"]),
        ([], ["pass --input"]),
        (["--input", "good.csv", "--train_input", "good.csv"], ["--input and --train_input contradict"]),
        (["--test_input", "good.csv"], ["--train_input"]),
        (["--train_input", "good.csv", "--folds", "50,0,50"], ["--folds and --train_input contradict"]),
        (["--input", "good.csv", "--output", "file"], ["file is a file where an output directory is meant"]),
        (["--input", "good.csv", "--output", "file/below"], ["cannot be written"]),
        (["--input", "good.csv", "--output", ".", "--overwrite"], ["lies in --output ."]),
    ],
)
def test_bad_input_is_explained_and_leaves_nothing(
    bad_input: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    messages: list[str],
) -> None:
    monkeypatch.chdir(bad_input)
    before = files_of(str(bad_input))
    output = [] if "--output" in flags else ["--output", "out"]
    assert prepare(*flags, *output, "--axis", "item") == 2
    message = capsys.readouterr().err
    for part in messages:
        assert part in message
    assert message.count("\n") == 1
    assert files_of(str(bad_input)) == before
    assert not (bad_input / "out").exists()


def test_an_output_is_replaced_only_when_asked_and_only_for_good_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.csv", make_records(strings=False, count=20))
    flags = ["--input", tmp_path / "a.csv", "--output", tmp_path / "out", "--axis"]
    assert prepare(*flags, "user") == 0
    before = files_of(str(tmp_path / "out"))
    assert prepare(*flags, "item") == 2
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    assert prepare("--input", tmp_path / "none", *flags[2:], "item", "--overwrite") == 2
    assert files_of(str(tmp_path / "out")) == before
    assert prepare("--input", tmp_path / "out", *flags[2:], "item", "--overwrite") == 2
    assert files_of(str(tmp_path / "out")) == before
    assert prepare(*flags, "item", "--overwrite") == 0
    assert Dataset(str(tmp_path / "out")).manifest.axis == "item"


def test_killed_and_run_again_leaves_the_same_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", make_records(strings=True, count=300))
    flags = ["--input", tmp_path / "a.parquet", "--axis", "user", "--num_shards", 5]
    assert prepare(*flags, "--output", tmp_path / "whole") == 0
    moments = ("_unfinished.json", "columns/*.parquet", "rows/*.parquet", "manifest.json")
    outputs = [tmp_path / f"out{number}" for number in range(len(moments))]
    kill(*((["prepare", *flags], *end) for end in zip(outputs, moments, strict=True)))
    for output, moment in zip(outputs, moments, strict=True):
        assert (output / "_unfinished.json").exists()
        assert (output / "manifest.json").exists() == (moment == "manifest.json")
        assert prepare(*flags, "--output", output) == 0
        assert files_of(str(output)) == files_of(str(tmp_path / "whole"))


def test_in_memory_storage(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", make_records(strings=False, count=50))
    base = f"memory://{uuid.uuid4().hex}"
    storage.write_file(f"{base}/in/a.csv", (tmp_path / "a.csv").read_bytes())
    assert prepare("--input", f"{base}/in/*.csv", "--output", f"{base}/out", "--axis", "user") == 0
    assert prepare("--input", tmp_path / "a.csv", "--output", tmp_path / "out", "--axis", "user") == 0
    assert files_of(f"{base}/out") == files_of(str(tmp_path / "out"))


def test_s3(tmp_path: Path, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.csv.gz", make_records(strings=True, count=50))
    storage.write_file(f"{s3}/in/a.csv.gz", (tmp_path / "a.csv.gz").read_bytes())
    flags = ["--axis", "item", "--num_shards", 2]
    assert prepare("--input", f"{s3}/in/*", "--output", f"{s3}/out", *flags) == 0
    assert prepare("--input", tmp_path / "a.csv.gz", "--output", tmp_path / "out", *flags) == 0
    assert files_of(f"{s3}/out") == files_of(str(tmp_path / "out"))
    assert sorted(ratings_of(f"{s3}/out")) == sorted(ratings_of(str(tmp_path / "out")))
    capsys.readouterr()
    assert prepare("--input", f"{s3}/in/*", "--output", f"{s3}/out", *flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert prepare("--input", f"{s3}/in/*", "--output", f"{s3}/out", *flags, "--overwrite") == 0
    assert files_of(f"{s3}/out") == files_of(str(tmp_path / "out"))
    assert prepare("--input", f"{s3}/none", "--output", f"{s3}/other", *flags) == 2
    assert prepare("--input", f"{s3}/in/*", "--output", "s3://no-such-bucket/out", *flags) == 2
    assert "cannot be written: The specified bucket does not exist" in capsys.readouterr().err


def test_pieces_of_a_text_file_on_s3(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.csv", make_records(strings=True, count=200))
    storage.write_file(f"{s3}/pieces/in/a.csv", (tmp_path / "a.csv").read_bytes())
    assert prepare("--input", tmp_path / "a.csv", "--output", tmp_path / "out", "--axis", "user") == 0
    monkeypatch.setattr("nnsparse_stream.ratings.reading.SPLIT_BYTES", 1000)
    assert prepare("--input", f"{s3}/pieces/in/a.csv", "--output", f"{s3}/pieces/out", "--axis", "user") == 0
    assert files_of(f"{s3}/pieces/out") == files_of(str(tmp_path / "out"))


LINE = st.one_of(
    st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(1, 5)).map(lambda t: f"{t[0]},{t[1]},{t[2]}"),
    st.sampled_from(["", "x,1,2", "1,2", "1,2,nan", '1,"2,3', ",,", "1,1,1,1"]),
)


@given(st.lists(LINE, max_size=25), st.sampled_from(["mean", "first", "last"]))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_dropped(tmp_path: Path, lines: list[str], policy: str) -> None:
    """Records in the input = entries + bad records + duplicates merged, and dead letters = bad records."""
    where = tmp_path / uuid.uuid4().hex
    where.mkdir()
    (where / "a.csv").write_text("\n".join(["user,item,rating", "9,9,5", *lines]))
    flags = ["--axis", "user", "--id_type", "int", "--max_bad_fraction", 1, "--duplicates", policy]
    assert prepare("--input", where / "a.csv", "--output", where / "out", *flags) == 0
    manifest = Dataset(str(where / "out")).manifest
    records = manifest.records
    assert records["read"] == 1 + sum(bool(line) for line in lines)
    assert records["read"] == len(ratings_of(str(where / "out"))) + records["bad"] + records["duplicates"]
    letters = files_of(str(where / "out" / "dead_letters"))
    assert sum(data.count(b"\n") for data in letters.values()) == records["bad"]
    assert manifest.num_entries == sum(manifest.fold_entries.values()) == len(ratings_of(str(where / "out")))


def test_movielens(tmp_path: Path, movielens: Path) -> None:
    """The real files need no flags; the canonical split of ML-100K is the whole of it."""
    flags = ["--axis", "item", "--output"]
    assert prepare("--input", movielens / "ml-100k/u.data", *flags, tmp_path / "whole") == 0
    split = ["--train_input", movielens / "ml-100k/u1.base", "--test_input", movielens / "ml-100k/u1.test"]
    assert prepare(*split, *flags, tmp_path / "u1") == 0
    assert prepare("--input", movielens / "ml-1m/ratings-users-1-2999.dat.gz", *flags, tmp_path / "half") == 0
    whole, u1, half = (Dataset(str(tmp_path / name)).manifest for name in ("whole", "u1", "half"))
    assert (whole.num_rows, whole.num_columns, whole.num_entries) == (1682, 943, 100_000)
    assert u1.fold_entries == {"train": 80_000, "validation": 0, "test": 20_000}
    assert u1.columns == whole.columns
    assert [entry[:3] for entry in ratings_of(str(tmp_path / "u1"))] == [
        entry[:3] for entry in ratings_of(str(tmp_path / "whole"))
    ]
    assert (half.num_columns, half.num_entries, half.records["bad"]) == (2999, 487_650, 0)
    assert (half.ratings["min"], half.ratings["max"]) == (1.0, 5.0)


def test_all_of_movielens_1m(tmp_path: Path, movielens: Path) -> None:
    flags = ["--input", movielens / "ml-1m.parquet", "--axis", "user", "--folds", "80,10,10"]
    assert prepare(*flags, "--output", tmp_path / "whole") == 0
    manifest = Dataset(str(tmp_path / "whole")).manifest
    assert (manifest.num_rows, manifest.num_columns, manifest.num_entries) == (6040, 3706, 1_000_209)
    assert manifest.records == {"read": 1_000_209, "bad": 0, "filtered": 0, "duplicates": 0}
    shares = [manifest.fold_entries[fold] / manifest.num_entries for fold in FOLDS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.002)


def test_worker_processes_write_the_same_and_print_no_log(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", make_records(strings=True, count=50))
    flags = ["--input", tmp_path / "a.csv", "--axis", "user", "--num_shards", 2, "--output"]
    assert prepare(*flags, tmp_path / "one") == 0
    several = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [
        sys.executable,
        "-m",
        "nnsparse_stream.pipelines.prepare",
        *map(str, flags),
        str(tmp_path / "two"),
        *several,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert files_of(str(tmp_path / "two")) == files_of(str(tmp_path / "one"))
    assert "INFO:apache_beam" not in done.stderr


def test_preparing_here_imports_neither_torch_nor_beam(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", make_records(strings=False, count=20))
    code = (
        "import sys; from nnsparse_stream.pipelines.cli import main; code = main(sys.argv[1:]); "
        "assert 'pyarrow' in sys.modules and not {'torch', 'apache_beam'} & set(sys.modules); sys.exit(code)"
    )
    flags = ["prepare", "--input", tmp_path / "a.csv", "--output", tmp_path / "out", "--axis", "user"]
    subprocess.run(
        [sys.executable, "-c", code, *map(str, flags)], check=True, env={**os.environ}, stdout=subprocess.DEVNULL
    )
