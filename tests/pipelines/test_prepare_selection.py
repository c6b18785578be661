"""prepare's folds by time and filters, end to end: any split and order, both axes, exact counts, plain errors."""

from __future__ import annotations

import gzip
import json
import random
import re
import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import files_of, prepare, ratings_of

from nnsparse_stream.data.dataset import Dataset

Record = tuple[int, int, float, int]

#: 2001-09-09T01:46:40Z
START = 1_000_000_000
DAY = 86_400


def make_records(count: int = 700, seed: int = 0) -> list[Record]:
    """Ratings on 20 days, with duplicate pairs and ties in time."""
    draw = random.Random(seed)
    return [
        (draw.randrange(40), min(draw.randrange(30), draw.randrange(30)), draw.randrange(1, 11) / 2, START + day * DAY)
        for day in (draw.randrange(20) for _ in range(count))
    ]


def write(path: Path, records: list[Record]) -> None:
    """Writes ratings with times in the format that the name says."""
    if path.suffix == ".parquet":
        columns = dict(zip(("user", "item", "rating", "time"), zip(*records, strict=True), strict=True))
        pq.write_table(pa.table(columns), path, row_group_size=100)
        return
    if ".jsonl" in path.suffixes:
        lines = [json.dumps({"time": t, "rating": r, "user": u, "item": i}) for u, i, r, t in records]
    else:
        lines = ["time,user,item,rating", *(f"{t},{u},{i},{r}" for u, i, r, t in records)]
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


LAYOUTS = (["a.parquet"], ["b.csv", "a.csv.gz"], ["z.jsonl.gz", "y.csv", "x.parquet", "w.jsonl"])
TIMED = ["--timestamp_column", "time"]
TIME_FLAGS = ["--validation_from", "2001-09-20", "--test_from", START + 15 * DAY]


@pytest.mark.parametrize("axis", ["user", "item"])
@pytest.mark.parametrize(
    "flags",
    [
        [*TIME_FLAGS, "--duplicates", "last"],
        [*TIME_FLAGS, "--duplicates", "mean", "--time_from", START + DAY, "--min_column_ratings", 12],
        ["--test_last", 2, "--validation_last", 1, "--duplicates", "first", "--min_row_ratings", 19],
    ],
)
def test_formats_splits_and_orders_give_the_same_bytes(tmp_path: Path, axis: str, flags: list[Any]) -> None:
    records = make_records()
    results = []
    for layout, names in enumerate(LAYOUTS):
        shuffled = records.copy()
        random.Random(layout).shuffle(shuffled)
        where = tmp_path / str(layout)
        where.mkdir()
        for place, name in enumerate(names):
            write(where / name, shuffled[place :: len(names)])
        out = tmp_path / f"out{layout}"
        common = ["--axis", axis, "--timestamp_column", "time", "--num_shards", 3]
        assert prepare("--input", where, "--output", out, *common, *flags) == 0
        results.append(files_of(str(out)))
    assert results[1] == results[0]
    assert results[2] == results[0]
    manifest = Dataset(str(tmp_path / "out0")).manifest
    assert all(manifest.fold_entries.values())
    assert manifest.records["duplicates"] > 0


@pytest.mark.parametrize("axis", ["user", "item"])
@pytest.mark.parametrize(
    "flags",
    [
        [*TIMED, "--test_last", 2, "--duplicates", "mean", "--min_row_ratings", 18, "--min_column_ratings", 16],
        [*TIMED, "--duplicates", "last", "--min_row_ratings", 18],
        ["--duplicates", "first"],  # by position
    ],
)
def test_shards_grouped_in_parts_have_the_same_bytes(
    tmp_path: Path, axis: str, flags: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "log.parquet", make_records())
    common = ["--input", tmp_path / "log.parquet", "--axis", axis, "--num_shards", 2]
    assert prepare("--output", tmp_path / "once", *common, *flags) == 0
    monkeypatch.setattr("nnsparse_stream.data.local_run.RATINGS_AT_ONCE", 15)
    monkeypatch.setattr("nnsparse_stream.data.shard_grouping._CUT_BYTES", 1 << 10)
    monkeypatch.setattr("nnsparse_stream.ratings.reading.BLOCK_BYTES", 1 << 8)
    assert prepare("--output", tmp_path / "parts", *common, *flags) == 0
    assert files_of(str(tmp_path / "parts")) == files_of(str(tmp_path / "once"))


def test_duplicates_in_a_shard_grouped_in_parts_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsparse_stream.data.local_run.RATINGS_AT_ONCE", 15)
    (tmp_path / "log.csv").write_text("".join(f"1,{item},3\n" for item in [*range(40), 17]))
    assert prepare("--input", tmp_path / "log.csv", "--output", tmp_path / "out", "--axis", "user") == 2
    assert "user 1 rated item 17 more than once" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def cut(tmp_path: Path, axis: str, *flags: object) -> tuple[dict[tuple[int, int], tuple[float, int]], dict[str, Any]]:
    """Prepares `tmp_path`/ratings.csv; what came of it, (user, item) -> (rating, fold), and the manifest."""
    out = tmp_path / uuid.uuid4().hex
    common = ["--input", tmp_path / "ratings.csv", "--timestamp_column", "time", "--axis", axis, "--duplicates", "last"]
    assert prepare(*common, "--output", out, *flags) == 0
    found = {
        ((row, column) if axis == "user" else (column, row)): (value, fold)
        for row, column, value, fold in ratings_of(str(out))
    }
    return found, json.loads((out / "manifest.json").read_text())


def test_a_cut_in_time_is_the_same_on_both_axes(tmp_path: Path) -> None:
    records = make_records()
    write(tmp_path / "ratings.csv", records)
    users, manifest = cut(tmp_path, "user", *TIME_FLAGS)
    items, other = cut(tmp_path, "item", *TIME_FLAGS)
    assert users == items
    validation_from = int(datetime(2001, 9, 20, tzinfo=timezone.utc).timestamp())
    assert manifest["folds"] == other["folds"]
    assert manifest["folds"] == {"method": "time", "validation_from": validation_from, "test_from": START + 15 * DAY}
    kept = {(u, i): (t, r) for u, i, r, t in sorted(records, key=lambda record: (record[3], record[2]))}
    assert users == {
        pair: (rating, 2 if time >= START + 15 * DAY else int(time >= validation_from))
        for pair, (time, rating) in kept.items()
    }


def test_the_latest_of_each_row_go_by_the_axis(tmp_path: Path) -> None:
    records = make_records()
    write(tmp_path / "ratings.csv", records)
    kept = {(u, i): t for u, i, _, t in sorted(records, key=lambda record: record[3])}
    for axis, side in (("user", 0), ("item", 1)):
        found, manifest = cut(tmp_path, axis, "--test_last", 2)
        assert manifest["folds"] == {"method": "last", "axis": axis, "validation": 0, "test": 2}
        for row in {pair[side] for pair in kept}:
            mine = sorted((time, pair[1 - side], pair) for pair, time in kept.items() if pair[side] == row)
            latest = min(2, len(mine) - 1)  # one stays for training
            assert [found[pair][1] for *_, pair in mine] == [0] * (len(mine) - latest) + [2] * latest


def test_filters_of_rows_and_columns_are_the_same_on_both_axes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = make_records()
    write(tmp_path / "ratings.csv", records)
    times = ["--time_from", "2001-09-10", "--time_to", START + 18 * DAY]
    users, manifest = cut(tmp_path, "user", *times, "--min_row_ratings", 15, "--min_column_ratings", 20)
    printed = capsys.readouterr().out
    items, other = cut(tmp_path, "item", *times, "--min_row_ratings", 20, "--min_column_ratings", 15)
    assert users == items
    time_from = int(datetime(2001, 9, 10, tzinfo=timezone.utc).timestamp())
    inside = [record for record in records if time_from <= record[3] < START + 18 * DAY]
    by_user, by_item = (Counter(record[side] for record in inside) for side in (0, 1))
    expected = [record for record in inside if by_user[record[0]] >= 15 and by_item[record[1]] >= 20]
    assert users.keys() == {record[:2] for record in expected}
    assert len({user for user, _ in users}) < len(by_user) < len({record[0] for record in records}) + 1
    assert manifest["records"] == other["records"]
    assert manifest["records"] == {
        "read": len(records),
        "bad": 0,
        "filtered": len(records) - len(expected),
        "duplicates": len(expected) - len(users),
    }
    assert manifest["filters"] == {
        "time_from": time_from,
        "time_to": START + 18 * DAY,
        "min_row_ratings": 15,
        "min_column_ratings": 20,
    }
    filters = f"min_column_ratings 20, min_row_ratings 15, time_from {time_from}, time_to {START + 18 * DAY}"
    assert f"filtered      {len(records) - len(expected):,} ({filters})\n" in printed
    assert "blocks read " in printed
    assert "shuffled " in printed
    unfiltered, manifest = cut(tmp_path, "user")
    assert len(unfiltered) > len(users)
    assert manifest["filters"] == {}


LINE = st.one_of(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 5), st.integers(0, 9)).map(
        lambda record: ",".join(map(str, record))
    ),
    st.sampled_from(["", "x,1,2,3", "1,2", "1,2,nan,5", "1,2,3,noon", ",,,"]),
)


@given(
    st.lists(LINE, max_size=40),
    st.sampled_from(["mean", "first", "last"]),
    st.sampled_from([["--test_from", 5], ["--test_last", 1], ["--folds", "50,0,50"]]),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_read_are_entries_bad_filtered_and_duplicates(
    tmp_path: Path, lines: list[str], policy: str, folds: list[object], least_of_row: int, least_of_column: int
) -> None:
    where = tmp_path / uuid.uuid4().hex
    where.mkdir()
    # A rating that no filter leaves out, and two that are outside of the range of time.
    always = [*["9,9,5,2"] * 3, "9,8,1,0", "9,8,1,8"]
    (where / "a.csv").write_text("\n".join(["user,item,rating,time", *always, *lines]))
    flags = ["--axis", "user", "--id_type", "int", "--max_bad_fraction", 1, "--duplicates", policy, *folds]
    filters = ["--time_from", 1, "--time_to", 8, "--min_row_ratings", least_of_row, "--min_column_ratings"]
    out = ["--output", where / "out", "--timestamp_column", "time"]
    assert prepare("--input", where / "a.csv", *out, *flags, *filters, least_of_column) == 0
    good = [tuple(map(int, line.split(","))) for line in (*always, *lines) if line.replace(",", "").isdigit()]
    good = [record for record in good if len(record) == 4]
    inside = [record for record in good if 1 <= record[3] < 8]
    users, items = (Counter(record[side] for record in inside) for side in (0, 1))
    kept = [r for r in inside if users[r[0]] >= least_of_row and items[r[1]] >= least_of_column]
    entries = ratings_of(str(where / "out"))
    assert {entry[:2] for entry in entries} == {record[:2] for record in kept}
    assert Dataset(str(where / "out")).manifest.records == {
        "read": len(always) + sum(bool(line) for line in lines),
        "bad": len(always) + sum(bool(line) for line in lines) - len(good),
        "filtered": len(good) - len(kept),
        "duplicates": len(kept) - len(entries),
    }
    letters = files_of(str(where / "out" / "dead_letters"))
    assert sum(data.count(b"\n") for data in letters.values()) == len(always) + sum(bool(line) for line in lines) - len(
        good
    )


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.timestamp("us", "Europe/Paris"), pa.date32()])
def test_times_may_be_timestamps(tmp_path: Path, kind: pa.DataType) -> None:
    days = [datetime(2026, 1, 1) + timedelta(days=day) for day in range(10)]
    times = pa.array(days, pa.timestamp("us")).cast(pa.timestamp("us", "UTC") if "Paris" in str(kind) else kind)
    table = pa.table({"user": [1] * 10, "item": range(10), "rating": range(10), "time": times.cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    common = ["--input", tmp_path / "a.parquet", "--axis", "user", "--timestamp_column", "time"]
    flags = ["--test_from", "2026-01-06T00:00:00Z", "--time_to", "2026-01-09"]
    assert prepare(*common, *flags, "--output", tmp_path / "out") == 0
    assert [(entry[1], entry[3]) for entry in sorted(ratings_of(str(tmp_path / "out")))] == [
        (item, 2 if item >= 5 else 0) for item in range(8)
    ]
    expected = int(datetime(2026, 1, 6, tzinfo=timezone.utc).timestamp()) * 1_000_000
    assert Dataset(str(tmp_path / "out")).manifest.folds["test_from"] == expected


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("files")
    (where / "a.csv").write_text("user,item,rating,time\n1,2,3,50\n1,3,3,60\n1,3,4,70\n1,3,4,80\n")
    pq.write_table(
        pa.table({"user": [1], "item": [9], "rating": [1], "time": [datetime(2026, 1, 1)]}), where / "t.parquet"
    )
    return where


TIMED = ["--timestamp_column", "time"]


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--test_from", "5"], ["--test_from needs the time of each rating; name its column by --timestamp_column"]),
        (["--test_last", "1"], ["--test_last needs the time"]),
        (["--time_to", "5"], ["--time_to needs the time"]),
        (["--test_last", "1", "--folds", "80,10,10"], ["--folds and --test_last contradict each other"]),
        (["--test_last", "1", "--fold_seed", "0"], ["--fold_seed and --test_last contradict each other"]),
        (["--test_last", "1", "--validation_from", "5"], ["--validation_from and --test_last contradict each other"]),
        (
            [*TIMED, "--test_from", "60", "--validation_from", "60"],
            ["--validation_from 60 is not before --test_from 60"],
        ),
        ([*TIMED, "--time_from", "9", "--time_to", "9"], ["--time_from 9 is not before --time_to 9"]),
        ([*TIMED, "--test_from", "50", "--duplicates", "last"], ["nothing to train on", "'test_from': 50"]),
        ([*TIMED, "--time_from", "81"], ["--time_from 81 lies outside of the times of the log, 50 to 80; correct it"]),
        ([*TIMED, "--min_row_ratings", "5"], ["no rating is left of 4", "'min_row_ratings': 5"]),
        ([*TIMED, "--min_column_ratings", "4"], ["no rating is left of 4", "'min_column_ratings': 4"]),
        ([*TIMED, "--time_from", "61"], ["a.csv, line 4 and", "a.csv, line 5; pass --duplicates"]),
        (
            [*TIMED, "--input", "t.parquet", "--test_from", "60"],
            ["--test_from 60 is an integer and the time column holds timestamps; give a date"],
        ),
        (
            [*TIMED, "--input", "a.csv,t.parquet", "--test_from", "2026-01-01"],
            ["times are dates, or decimals, in", "t.parquet and integers in", "a.csv"],
        ),
    ],
)
def test_what_cannot_be_cut_is_explained_and_leaves_nothing(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    messages: list[str],
) -> None:
    monkeypatch.chdir(files)
    data = [] if "--input" in flags else ["--input", "a.csv"]
    assert prepare(*data, *flags, "--output", "out", "--axis", "user") == 2
    message = capsys.readouterr().err
    for part in messages:
        assert part in message
    assert message.count("\n") == 1
    assert not (files / "out").exists()


def test_files_of_folds_contradict_other_folds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train_input", files / "a.csv", "--test_last", 1, "--output", files / "out", "--axis", "user"]
    assert prepare(*flags) == 2
    assert "--test_last and --train_input contradict each other" in capsys.readouterr().err


def test_a_time_that_is_none_is_refused_as_a_flag(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--input", files / "a.csv", "--output", files / "out", "--axis", "user", "--test_from", "noon"]
    assert prepare(*flags) == 2
    assert "argument --test_from: 'noon' is neither an integer nor a date" in capsys.readouterr().err


def test_a_runner_that_loses_ratings_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnsparse_stream.pipelines import prepare_job as module

    write(tmp_path / "ratings.csv", [(1, item, 3.0, item) for item in range(10)])
    whole = module._write_summary

    def lossy(_: bytes, url: str, *parts: Any) -> None:
        *others, shards = parts
        shards[0]["file"]["entries"] -= 1
        whole(_, url, *others, shards)

    monkeypatch.setattr(module, "_write_summary", lossy)
    flags = ["--input", tmp_path / "ratings.csv", "--output", tmp_path / "out", "--axis", "user"]
    assert prepare(*flags, "--runner=DirectRunner") == 1
    message = capsys.readouterr().err
    assert "lost or repeated ratings: of 10 read it left out 0 and counted 10; of these it wrote 9" in message
    assert not (tmp_path / "out").exists()


def test_real_times(tmp_path: Path, movielens: Path) -> None:
    """MovieLens' `::` lines need no flag for their times; each user's last rating is no earlier than the others."""
    source = movielens / "ml-1m/ratings-users-1-2999.dat.gz"
    flags = ["--input", source, "--axis", "user", "--output"]
    assert prepare(*flags, tmp_path / "last", "--test_last", 1, "--validation_last", 1) == 0
    assert prepare(*flags, tmp_path / "time", "--test_from", "2001-01-01") == 0
    last, time = (Dataset(str(tmp_path / name)).manifest for name in ("last", "time"))
    assert last.fold_entries == {"train": 487_650 - 2 * 2999, "validation": 2999, "test": 2999}
    with gzip.open(source, "rt", encoding="latin-1") as lines:
        records = [tuple(map(int, line.split("::"))) for line in lines]
    assert time.fold_entries["test"] == sum(record[3] >= 978_307_200 for record in records)
    latest = {user: (time, item) for user, item, _, time in sorted(records, key=lambda record: (record[3], record[1]))}
    tested = {row: column for row, column, _, fold in ratings_of(str(tmp_path / "last")) if fold == 2}
    assert tested == {user: item for user, (_, item) in latest.items()}


def test_every_way_to_write_a_time_gives_the_same_bytes(tmp_path: Path) -> None:
    records = [(u, i, r, t + u / 1024) for u, i, r, t in make_records(60)]
    dates = [datetime.fromtimestamp(t, timezone.utc) for *_, t in records]

    def log(name: str, times: list[Any]) -> str:
        lines = [f"{u},{i},{r},{t}" for (u, i, r, _), t in zip(records, times, strict=True)]
        (tmp_path / name).write_text("\n".join(["user,item,rating,time", *lines]))
        return name

    columns = dict(zip(("user", "item", "rating", "time"), zip(*records, strict=True), strict=True))
    for name, times in (
        ("ns.parquet", pa.array(dates, pa.timestamp("ns"))),
        ("zone.parquet", pa.array(dates, pa.timestamp("us", "UTC"))),
        ("float.parquet", columns["time"]),
    ):
        pq.write_table(pa.table({**columns, "time": times}), tmp_path / name)
    east = timezone(timedelta(hours=2))
    logs = [
        ("ns.parquet", "auto"),
        ("zone.parquet", "ms"),
        ("float.parquet", "auto"),
        (log("float.csv", [t for *_, t in records]), "auto"),
        (log("iso.csv", [date.astimezone(east if date.day % 2 else timezone.utc) for date in dates]), "auto"),
        (log("text.csv", [f"{date:%Y-%m-%d %H:%M:%S.%f}123 UTC" for date in dates]), "auto"),
        (log("ns.csv", [round(t * 10**6) * 1000 + 999 for *_, t in records]), "ns"),
    ]
    results = []
    for name, unit in logs:
        flags = ["--input", tmp_path / name, "--axis", "user", *TIMED, "--timestamp_unit", unit, "--duplicates", "last"]
        cuts = ["--test_from", "2001-09-20 00:00:00.01Z", "--time_from", "2001-09-10T02:00+02:00"]
        assert prepare(*flags, *cuts, "--output", tmp_path / f"{name}.out") == 0
        results.append(files_of(str(tmp_path / f"{name}.out")))
    assert all(result == results[0] for result in results)
    assert b'"test_from": 1000944000010000' in results[0]["manifest.json"]


@pytest.mark.parametrize(
    ("scale", "flags", "message"),
    [
        (
            1,
            ["--time_from", "2000-01-01"],
            r"--time_from 946684800 lies outside of the times of the log, 10000\d+ to 10",
        ),
        (1, ["--time_from", "2005-01-01"], "--time_from 1104537600 lies outside"),
        (1, ["--time_to", "2000-01-01"], "--time_to 946684800 lies outside"),
        (1, ["--time_to", "2005-01-01"], r"--time_to 1104537600 lies outside .*; correct it or drop it"),
        (1, ["--test_from", "2005-01-01"], "--test_from 1104537600 lies outside"),
        (1, ["--validation_from", "2000-01-01", "--test_from", "2001-09-20"], "--validation_from 946684800 lies"),
        (
            1,
            ["--test_from", "2001-09-20", "--time_to", "2001-09-19"],
            "outside of the times of the log between --time_fr",
        ),
        *[
            (1000, [flag, "2001-09-20"], rf"{flag} 1000944000 lies .*look like milliseconds: pass --timestamp_unit ms")
            for flag in ("--time_from", "--time_to", "--validation_from", "--test_from")
        ],
        (
            1000,
            ["--timestamp_unit", "s", "--test_from", "2001-09-20"],
            r"2001-09-20T00:00:00Z .* seem to count something",
        ),
    ],
)
def test_bounds_outside_of_all_times_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: int, flags: list[str], message: str
) -> None:
    write(tmp_path / "log.csv", [(u, i, r, t * scale) for u, i, r, t in make_records(50)])
    common = ["--input", tmp_path / "log.csv", "--axis", "user", *TIMED, "--duplicates", "last"]
    assert prepare(*common, "--output", tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_first_and_the_last_time_of_a_log_are_bounds_inside(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,rating,time\n1,1,1,5\n1,2,1,7\n1,3,1,9\n")
    common = ["--input", tmp_path / "log.csv", "--axis", "user", *TIMED]
    for place, flags in enumerate((["--time_from", 5, "--time_to", 9], ["--test_from", 9], ["--time_from", 9])):
        assert prepare(*common, "--output", tmp_path / str(place), *flags) == 0


def test_integers_of_a_unit_are_bounds_of_that_unit(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,rating,time\n1,1,1,5000\n1,2,1,7000\n1,3,1,9000\n")
    common = ["--input", tmp_path / "log.csv", "--axis", "user", *TIMED, "--timestamp_unit", "ms"]
    assert prepare(*common, "--output", tmp_path / "out", "--test_from", 7000) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["folds"]["test_from"] == 7_000_000
    assert manifest["fold_entries"]["test"] == 2
