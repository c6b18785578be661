import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.presets import PRESETS, Recipe, recipe


def test_overrides_replace_fields_and_none_keeps_them():
    chosen = recipe("cfn", epochs=3, learning_rate=None)
    assert (chosen.epochs, chosen.learning_rate) == (3, PRESETS["cfn"].learning_rate)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match=r"no preset 'cnf'; there are .*cfn"):
        recipe("cnf")


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_survives_json(name):
    assert Recipe.from_json(PRESETS[name].to_json()) == PRESETS[name]
