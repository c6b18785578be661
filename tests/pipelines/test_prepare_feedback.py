"""prepare on interactions: values, repeats, what ratings become, shares of time, rows that are held out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from preparing import files_of, prepare, ratings_of

from nnsparse_stream.data.dataset import Dataset

Click = tuple[str, str, int, int]  # user, item, plays, time


def make_clicks(count: int = 900) -> list[Click]:
    """Clicks on 30 days, most of them repeated."""
    draw = random.Random(0)
    return [
        (f"u{draw.randrange(30)}", f"i{min(draw.randrange(25), draw.randrange(25))}", draw.randrange(1, 9), day)
        for day in (1_000_000_000 + 86_400 * draw.randrange(30) for _ in range(count))
    ]


@pytest.fixture
def clicks(tmp_path: Path) -> list[Click]:
    """`clicks.csv` without ratings, and `plays.csv` with numbers of plays."""
    made = make_clicks()
    (tmp_path / "clicks.csv").write_text("\n".join(["user,item,time", *(f"{u},{i},{t}" for u, i, _, t in made)]))
    lines = ["user,item,plays,time", *(f"{u},{i},{p},{t}" for u, i, p, t in made)]
    (tmp_path / "plays.csv").write_text("\n".join(lines))
    return made


def made_of(tmp_path: Path, *flags: object, log: str = "plays.csv") -> tuple[dict[tuple, tuple], dict[str, Any]]:
    """What is prepared of a log, (row, column) -> (value, fold), and the manifest."""
    common = ["--input", tmp_path / log, "--axis", "user", "--num_shards", 3, "--timestamp_column", "time", *flags]
    assert prepare(*common, "--output", tmp_path / "here", "--overwrite") == 0
    found = {(row, column): (value, fold) for row, column, value, fold in ratings_of(str(tmp_path / "here"))}
    return found, json.loads((tmp_path / "here" / "manifest.json").read_text())


def values_of(found: dict[tuple, tuple]) -> dict[tuple, float]:
    return {pair: value for pair, (value, _) in found.items()}


def test_interactions_are_counted(tmp_path: Path, clicks: list[Click], capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter(click[:2] for click in clicks)
    assert max(counts.values()) > 5
    for log in ("clicks.csv", "plays.csv"):  # whose column of plays is not named
        found, manifest = made_of(tmp_path, "--feedback", "implicit", log=log)
        assert values_of(found) == counts
        assert (manifest["feedback"], manifest["duplicates"], manifest["filters"]) == ("implicit", "count", {})
        assert manifest["records"] == {"read": 900, "bad": 0, "filtered": 0, "duplicates": 900 - len(counts)}
    assert f"interactions  1 to {max(counts.values())}, mean of train" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--feedback", "implicit", "--test_rows", 20, "--validation_rows", 20],
        ["--weight_column", "plays", "--positive_from", 3, "--duplicates", "sum", "--test_share_time", 12.5],
    ],
)
def test_the_bytes_are_those_of_beams_runner(tmp_path: Path, clicks: list[Click], flags: list[object]) -> None:
    made_of(tmp_path, *flags)
    beam = ["--output", tmp_path / "beam", "--num_shards", 3, "--timestamp_column", "time", "--runner=DirectRunner"]
    assert prepare("--input", tmp_path / "plays.csv", "--axis", "user", *beam, *flags) == 0
    assert files_of(str(tmp_path / "beam")) == files_of(str(tmp_path / "here"))


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        (["--weight_column", "plays"], "sum"),
        (["--feedback", "implicit", "--rating_column", 2], "sum"),
        (["--weight_column", "plays", "--duplicates", "max"], "max"),
        (["--weight_column", "plays", "--duplicates", "count"], "count"),
    ],
)
def test_weights_are_summed_unless_asked_otherwise(
    tmp_path: Path, clicks: list[Click], flags: list[object], policy: str
) -> None:
    columns = ["--user_column", 0, "--item_column", 1, "--header", "true"] if 2 in flags else []
    found, manifest = made_of(tmp_path, *flags, *columns)
    plays: dict[tuple, list[int]] = {}
    for user, item, number, _ in clicks:
        plays.setdefault((user, item), []).append(number)
    value = {"sum": sum, "max": max, "count": len}[policy]
    assert values_of(found) == {pair: value(numbers) for pair, numbers in plays.items()}
    assert (manifest["feedback"], manifest["duplicates"]) == ("implicit", policy)


def test_ratings_from_a_value_on_become_interactions(
    tmp_path: Path, clicks: list[Click], capsys: pytest.CaptureFixture[str]
) -> None:
    found, manifest = made_of(tmp_path, "--positive_from", "4", "--rating_column", "plays", "--min_row_ratings", 9)
    positive = [click[:2] for click in clicks if click[2] >= 4]
    users = Counter(user for user, _ in positive)
    counts = Counter(pair for pair in positive if users[pair[0]] >= 9)
    assert values_of(found) == counts
    assert (manifest["feedback"], manifest["duplicates"]) == ("implicit", "count")
    assert manifest["filters"] == {"positive_from": 4, "min_row_ratings": 9}
    assert manifest["records"]["filtered"] == 900 - counts.total()
    assert f"filtered      {900 - counts.total()} (min_row_ratings 9, positive_from 4)" in capsys.readouterr().out


@pytest.mark.parametrize("axis", ["user", "item"])
def test_a_share_of_time_is_cut_alike_on_both_axes(tmp_path: Path, clicks: list[Click], axis: str) -> None:
    shares = ["--validation_share_time", 10, "--test_share_time", 20, "--time_from", 1_000_000_000 + 86_400]
    found, manifest = made_of(tmp_path, "--feedback", "implicit", "--axis", axis, *shares)
    latest = sorted((click[3] for click in clicks if click[3] > 1_000_000_000), reverse=True)
    test_from, validation_from = (latest[-(-len(latest) * share // 100) - 1] for share in (20, 30))
    times = {"test_from": test_from, "validation_from": validation_from}
    assert manifest["folds"] == {"method": "time", **times, "test_share": 20, "validation_share": 10}
    last = {click[:2]: click[3] for click in sorted(clicks, key=lambda click: click[3]) if click[3] > 1_000_000_000}
    by_user = found if axis == "user" else {(user, item): entry for (item, user), entry in found.items()}
    # An entry is of its last interaction's time, so that what is trained on was all there before the cut.
    folds = {pair: 2 if time >= test_from else int(time >= validation_from) for pair, time in last.items()}
    assert {pair: fold for pair, (_, fold) in by_user.items()} == folds


def test_rows_are_held_out(tmp_path: Path, clicks: list[Click], capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--validation_rows", 20, "--test_rows", 30, "--shown", 75, "--fold_seed", 1]
    found, manifest = made_of(tmp_path, "--feedback", "implicit", *rows)
    parameters = {"axis": "user", "validation": 20, "test": 30, "shown": 75, "seed": 1}
    assert manifest["folds"] == {"method": "rows", **parameters}
    by_row: dict[str, Counter[int]] = {}
    for (row, _), (_, fold) in found.items():
        by_row.setdefault(row, Counter())[fold] += 1
    assert {frozenset(folds) for folds in by_row.values()} == {frozenset([0]), frozenset([1, 3]), frozenset([2, 4])}
    for folds in by_row.values():
        if 0 not in folds:
            assert folds[1] + folds[2] == int(folds.total() * 0.25 + 0.5)
    sums = sum(by_row.values(), Counter())
    names = ("train", "validation", "test", "validation_shown", "test_shown")
    assert manifest["fold_entries"] == {name: sums[code] for code, name in enumerate(names)}
    assert Dataset(str(tmp_path / "here")).manifest.fold_entries == manifest["fold_entries"]
    assert f"test {sums[2]}, validation_shown {sums[3]}, test_shown {sums[4]}" in capsys.readouterr().out


def test_rows_without_interactions_to_judge_keep_one_shown(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(f"{user},1,5" for user in range(40)))
    flags = ["--input", tmp_path / "log.csv", "--output", tmp_path / "out", "--axis", "user", "--test_rows", 50]
    assert prepare(*flags, "--shown", 10) == 0
    assert {fold for *_, fold in ratings_of(str(tmp_path / "out"))} == {0, 4}


def test_manifests_of_earlier_releases_are_of_ratings(tmp_path: Path, clicks: list[Click]) -> None:
    made_of(tmp_path, "--feedback", "implicit")
    path = tmp_path / "here" / "manifest.json"
    value = json.loads(path.read_text())
    assert Dataset(str(tmp_path / "here")).manifest.feedback == value.pop("feedback") == "implicit"
    path.write_text(json.dumps(value))
    assert Dataset(str(tmp_path / "here")).manifest.feedback == "explicit"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rating_column", "none"], r"a\.csv, line 3; .*remove one; .*interactions, .* pass --feedback implicit"),
        (["--rating_column", "x", "--weight_column", "y"], "--rating_column and --weight_column both name the column"),
        (["--feedback", "explicit", "--weight_column", "y"], "--weight_column makes implicit feedback, and --feedback"),
        (["--feedback", "explicit", "--positive_from", "4"], "--positive_from makes implicit feedback, and --feedback"),
        (["--rating_column", "none", "--positive_from", "4"], "there is no column of them; drop one"),
        (["--positive_from", "nan"], "argument --positive_from: 'nan' is not a number"),
        (["--positive_from", "6"], "no rating is left of 3: the filters {'positive_from': 6} leave all of them out"),
        (["--test_share_time", "10"], "--test_share_time needs the time of each rating"),
        (["--test_share_time", "0"], "'0' is not a percentage of more than 0 and less than 100"),
        (
            ["--test_rows", "60", "--validation_rows", "40"],
            "--validation_rows 40 and --test_rows 60 do not sum to more",
        ),
        (["--test_rows", "10", "--folds", "80,10,10"], "--folds and --test_rows contradict each other"),
        (["--shown", "80"], "--shown is of rows that are held out: pass --test_rows"),
        (
            ["--timestamp_column", "3", "--test_share_time", "10", "--validation_share_time", "20", "--time_from", "6"],
            "too many ratings have the time 7, the first, for any to come before the latest 30%",
        ),
    ],
)
def test_what_does_not_fit_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (tmp_path / "a.csv").write_text("1,2,3,5\n1,3,4,7\n1,2,5,7\n")
    assert prepare("--input", tmp_path / "a.csv", "--output", tmp_path / "out", "--axis", "user", *flags) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()
