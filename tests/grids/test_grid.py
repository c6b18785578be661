"""Grids: which runs a file names, and what their names are; what is wrong with one is said with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.grids.grid import MOST_RUNS, grid_runs, read_grid


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({}, ["run"]),
        ({"preset": "best", "epochs": 3}, ["run"]),
        # The last field's values follow each other.
        (
            {"preset": ["best", "deep"], "learning_rate": [5e-4, 1], "epochs": 3},
            ["best-learning_rate_0.0005", "best-learning_rate_1", "deep-learning_rate_0.0005", "deep-learning_rate_1"],
        ),
        # A list of one value is a list; a number that is not short is told in full.
        (
            {"learning_rate": [0.0012345678], "tied": [True, False]},
            ["learning_rate_0.0012345678-tied_true", "learning_rate_0.0012345678-tied_false"],
        ),
        ({"learning_rate": [1e-7, 1e20]}, ["learning_rate_1e-07", "learning_rate_1e20"]),
        ({"hidden": [[500, 500], 256, [7]]}, ["hidden_500x500", "hidden_256", "hidden_7"]),
        ({"validation_metric": ["ndcg@10", "mae"]}, ["validation_metric_ndcg_10", "validation_metric_mae"]),
        # What entries differ in varies, too, also where one of them has not the field.
        (
            [{"data": "s3://b/items/", "preset": "best"}, {"data": "users", "preset": "best-user", "seed": 1}],
            ["items-best", "users-best-user-seed_1"],
        ),
        ([{"data": "a/x", "epochs": 3}, {"data": ["b/x", "c/y"], "epochs": 3}], ["a_x", "b_x", "c_y"]),
        ([{"data": "/x y"}, {"data": "/x_y"}, {"data": ".."}], ["data_2", "data_3", "data_1"]),
    ],
)  # fmt: skip
def test_names(value: Any, names: list[str]) -> None:
    assert [run.name for run in grid_runs(value, "grid.json")] == names


def test_fields_and_groups(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text('[{"hidden": [[8, 4]], "seed": [0, 1]}, {"learning_rate": 1}]')
    first, second, other = read_grid(str(tmp_path / "grid.json"))
    assert first.fields == {"hidden": (8, 4), "seed": 0}
    assert isinstance(other.fields["learning_rate"], float)
    assert [run.name for run in (first, second, other)] == ["hidden_8x4-seed_0", "hidden_8x4-seed_1", "learning_rate_1"]
    assert first.group == second.group == "hidden_8x4"
    assert first.configuration == second.configuration != other.configuration
    assert [run.group for run in grid_runs({"seed": [0, 1]}, "")] == ["all", "all"]


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    fields = ("learning_rate", "learning_rate_decay", "weight_decay", "decoder_weight_decay", "mean_damping")
    found = [
        grid_runs([{name: [1 / 7] for name in fields} | {"input_scale": [scale]}], "grid.json")[0].name
        for scale in (1, 2)
    ]
    assert found[0] != found[1]
    assert found[0][:100] == found[1][:100]
    assert max(map(len, found)) < 150


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "grid.json is an empty grid"),
        ([{}, 3], r"grid\.json, entry 2 is 3, no object"),
        ({"sed": 1}, r'grid\.json: there is no field "sed"; there are data, init, preset, seed, .* `train --help`'),
        ([{}, {"seed": []}], r'entry 2: "seed" is an empty list'),
        ({"seed": [1, "x"]}, "\"seed\" is 'x', not a whole number"),
        ({"seed": [0, -1]}, '"seed" is -1, not 0 or more'),
        ({"patience": 0}, '"patience" is 0, not 1 or more'),
        ({"learning_rate": [1, 1.0]}, r'"learning_rate" has 1\.0 twice$'),
        ({"hidden": [500, 500]}, r'"hidden" has 500 twice; .* as \[\[500, 500\]\]'),
        ({"hidden": [["a"]]}, r"\"hidden\"\[0\] is 'a', not a whole number"),
        ([{"seed": 1}, {"seed": [0, 1]}], r"entry 2: its run seed_1 is there already, in grid\.json, entry 1"),
        ({"seed": [*range(MOST_RUNS + 1)]}, "names 1,001 runs; 1,000 are the most"),
    ],
)
def test_what_is_wrong_is_said(value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        grid_runs(json.loads(json.dumps(value)), "grid.json")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "no valid JSON"), ('{"seed": 1, "seed": 2}', '"seed" is there twice in one object')]
)
def test_a_file_that_is_no_grid(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(InputError, match=rf"grid\.json is no grid: .*{said}"):
        read_grid(str(tmp_path / "grid.json"))
