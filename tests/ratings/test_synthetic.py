import math

import numpy as np

from nnsparse_stream.ratings.synthetic import GENRES, item_ids, make_interactions, make_ratings


def test_the_expected_rating_is_the_mean_of_many_draws():
    sample = make_ratings(20, 16, 100, noise=0.7, seed=1)
    random = np.random.default_rng(0)
    users, items = np.array([0, 3, 19]), np.array([1, 0, 15])
    draws = sample.affinities(users, items)[:, None] + random.normal(0, 0.7, (3, 200_000))
    stars = np.clip(np.floor(draws * 2 + 0.5) / 2, 0.5, 5.0)
    np.testing.assert_allclose(sample.expected(users, items), stars.mean(1), atol=4 * 0.7 / math.sqrt(200_000))


def test_a_sample_is_a_function_of_its_arguments_and_names_each_pair_once():
    sample, again = make_ratings(50, 40, 500, 0.5, 7), make_ratings(50, 40, 500, 0.5, 7)
    assert sample.ratings.equals(again.ratings)
    assert not sample.ratings.equals(make_ratings(50, 40, 500, 0.5, 8).ratings)
    pairs = sample.ratings.group_by(["user", "item"]).aggregate([])
    assert len(pairs) == len(sample.ratings)
    stars = set(sample.ratings["rating"].to_pylist())
    assert stars <= {0.5 * step for step in range(1, 11)}


def test_an_items_name_starts_with_its_genre():
    assert item_ids(10).to_pylist()[8:] == [f"{GENRES[0]}-001", f"{GENRES[1]}-001"]


def test_interactions_are_pairs_of_heavy_tails_that_groups_explain():
    log = make_interactions(400, 300, 8000, 10, seed=1)
    assert log.equals(make_interactions(400, 300, 8000, 10, seed=1))
    users, items = (log[name].to_numpy() for name in ("user", "item"))
    held = np.zeros((400, 300))
    np.add.at(held, (users, items), 1)
    assert held.max() == 1
    for counts in (held.sum(0), held.sum(1)):
        assert np.sort(counts)[-len(counts) // 10 :].sum() > 0.25 * counts.sum()
    assert held.sum(1).min() >= 1
    # Items that users have together: more often than by popularity alone.
    together = np.triu(held.T @ held, 1)
    expected = np.triu(np.outer(held.sum(0), held.sum(0)) / 400, 1)
    assert (together > 3 * expected + 3).sum() > 200
