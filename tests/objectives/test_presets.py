import json
from dataclasses import replace

import pytest

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.objectives import recipe_from_json
from nnsparse_stream.objectives.presets import CHOICES, PRESETS, chosen_preset, recipe


def test_overrides_replace_fields_and_none_keeps_them():
    chosen = recipe("cfn", epochs=3, learning_rate=None)
    assert (chosen.epochs, chosen.learning_rate) == (3, PRESETS["cfn"].learning_rate)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match=r"no preset 'cnf'; there are .*cfn"):
        recipe("cnf")


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_survives_json(name):
    assert recipe_from_json(json.loads(json.dumps(PRESETS[name].to_json()))) == PRESETS[name]


def test_the_epochs_of_a_stacked_recipe_are_its_layers_and_then_all():
    stacked = recipe("cfn-stacked", hidden=(4, 3), pretrain_epochs=2, epochs=3)
    assert stacked.all_epochs == 7
    assert [tuple(stacked.stage(epoch)) for epoch in range(1, 8)] == [
        (1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2), (None, 1, 3), (None, 2, 3), (None, 3, 3),
    ]  # fmt: skip
    plain = recipe("cfn", epochs=2)
    assert [tuple(plain.stage(epoch)) for epoch in (1, 2)] == [(None, 1, 2), (None, 2, 2)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain_epochs": 2}, "two or more hidden layers"),
        ({"refeed_columns": -1}, "refeed_columns is -1, not 0 or more"),
        ({"epochs": 0}, "epochs is 0, not 1 or more"),
        ({"presence": True, "rescale": True}, "presence does not go with rescale"),
        ({"refeed_columns": 2, "raw_input": True}, "refeed_columns needs an input of residuals"),
        ({"hidden": (4, 3), "mirrored": False, "pretrain_epochs": 2}, "pretrain_epochs needs mirrored layers"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        recipe("cfn", **fields)


@pytest.mark.parametrize(
    ("feedback", "axis", "entries", "columns", "chosen"),
    [
        ("explicit", "item", 1_000_000, 1, "deep"),
        ("explicit", "item", 5, 1, "deep"),
        ("explicit", "user", 1_000_000, 1, "best-user"),
        ("explicit", "user", 5, 1, "best-small-user"),
        ("implicit", "user", 1_000_000, 1_000, "ranking-dense"),
        ("implicit", "user", 1_000_000, 100_000, "ranking-sparse"),
        ("implicit", "user", 5, 1_000, "linear"),
        ("implicit", "user", 5, 100_000, "ranking-sparse"),
    ],
)
def test_auto_chooses_by_what_the_data_set_holds(trained, feedback, axis, entries, columns, chosen):
    manifest = replace(
        Manifest.read(trained.data), feedback=feedback, axis=axis, num_columns=columns, fold_entries={"train": entries}
    )
    assert chosen_preset("auto", manifest) == chosen
    assert chosen in PRESETS


def test_what_is_no_choice_is_itself(trained):
    assert not CHOICES.keys() & PRESETS.keys()
    assert chosen_preset("best", Manifest.read(trained.data)) == "best"
