"""How several models' predictions become one, given and learned."""

from itertools import pairwise

import numpy as np
import pytest

from nnsparse_stream.scoring.combination import Combination, PredictionMoments


def log(seed, ratings=4000, noise=(0.3, 0.6, 0.9)):
    """Ratings, and predictions of models that err independently."""
    random = np.random.default_rng(seed)
    truth = random.normal(3.5, 1.0, ratings)
    return truth, truth + random.normal(0.0, np.array(noise)[:, None], (len(noise), ratings))


def moments(predictions, ratings, origin=3.5):
    found = PredictionMoments(len(predictions), origin)
    found.add(predictions, ratings)
    return found


def rmse(combined, ratings):
    return np.sqrt(np.mean((combined - ratings) ** 2))


@pytest.mark.parametrize("ratings", [5, 4000])
def test_a_fit_is_ridge_regression_around_equal_weights(ratings):
    ratings, predictions = log(8, ratings)
    fitted = moments(predictions, ratings).fit()
    # Rows that say that each weight is 1 / 3, as much as the prior does, and a free intercept.
    sure = rmse(predictions.mean(0), ratings) / 0.3
    rows = np.vstack([np.column_stack([predictions.T, np.ones(len(ratings))]), sure * np.eye(3, 4)])
    expected, *_ = np.linalg.lstsq(rows, np.concatenate([ratings, np.full(3, sure / 3)]), rcond=None)
    assert [*fitted.weights, fitted.intercept] == pytest.approx(expected)


def test_a_fit_weighs_models_by_their_errors_and_undoes_a_bias():
    ratings, predictions = log(0)
    fitted = moments(predictions + np.array([[0.0], [1.0], [0.0]]), ratings).fit()
    # Independent errors are weighed by the inverse of their variances, and the whole is drawn to the mean.
    assert fitted.weights == pytest.approx([0.69, 0.16, 0.07], abs=0.05)
    biased = predictions.mean(1) + np.array([0.0, 1.0, 0.0])
    assert fitted.intercept == pytest.approx(ratings.mean() - fitted.weights @ biased)


def test_a_fit_is_better_than_each_model_and_than_the_mean_on_other_ratings():
    fitted = moments(*log(1)[::-1]).fit()
    ratings, predictions = log(2)
    errors = [rmse(prediction, ratings) for prediction in (*predictions, predictions.mean(0))]
    assert rmse(fitted.of(predictions), ratings) < 0.97 * min(errors)


def test_an_error_that_two_models_share_is_taken_out():
    ratings, (good, bad, _) = log(3)
    shared = np.stack([good + bad - ratings, 3 * bad - 2 * ratings])
    fitted = moments(shared, ratings).fit()
    assert fitted.weights[1] < -0.2
    assert rmse(fitted.of(shared), ratings) < 0.75 * rmse(shared[0], ratings)


def test_few_ratings_leave_the_weights_near_equal_ones():
    ratings, predictions = log(4)
    few = [moments(predictions[:, start : start + 3], ratings[start : start + 3]).fit() for start in range(0, 90, 3)]
    assert np.ptp([fitted.weights for fitted in few], axis=0).max() < 1.2
    same = moments(np.repeat(predictions[:1], 4, axis=0), ratings).fit()
    assert same.weights == pytest.approx([same.weights[0]] * 4)
    assert sum(same.weights) == pytest.approx(0.92, abs=0.03)


@pytest.mark.parametrize("origin", [0.0, 3.5])
def test_moments_add_up_over_blocks_and_know_the_error(origin):
    ratings, predictions = log(5)
    whole, parts = moments(predictions, ratings, origin), PredictionMoments(3, origin)
    for start, stop in pairwise([0, 0, 17, 3000, 4000]):
        parts += moments(predictions[:, start:stop], ratings[start:stop], origin)
    assert parts.count == 4000
    assert parts.sums == pytest.approx(whole.sums)
    fitted = whole.fit()
    assert whole.rmse(fitted) == pytest.approx(rmse(fitted.of(predictions), ratings))
    alone = Combination((0.0, 1.0, 0.0))
    assert parts.rmse(alone) == pytest.approx(rmse(predictions[1], ratings))


def test_a_fit_does_not_depend_on_the_scale_of_the_ratings():
    ratings, predictions = log(6)
    small, large = moments(predictions, ratings).fit(), moments(100 * predictions, 100 * ratings, 350.0).fit()
    assert large.weights == pytest.approx(small.weights)
    assert large.intercept == pytest.approx(100 * small.intercept)


def test_digits_are_not_lost_far_from_zero():
    ratings, predictions = log(7)
    near, far = moments(predictions, ratings).fit(), moments(predictions + 1e7, ratings + 1e7, 1e7 + 3.5).fit()
    assert far.weights == pytest.approx(near.weights, abs=1e-6)


def test_nothing_to_fit_is_an_error():
    with pytest.raises(ValueError, match="no rating"):
        PredictionMoments(2, 0.0).fit()


def test_models_that_are_right_are_no_error():
    ratings = np.array([1.0, 2.0, 4.0])
    fitted = moments(np.stack([ratings, ratings]), ratings).fit()
    assert fitted.of(np.stack([ratings, ratings])) == pytest.approx(ratings)


def test_a_mean_divides_by_the_sum_and_bounds_hold():
    predictions = np.array([[1.0, 5.0], [2.0, 4.0]], dtype=np.float32)
    assert Combination.mean([3, 1]).of(predictions).tolist() == [1.25, 4.75]
    assert Combination((1.0, 1.0), 0.5, (1.0, 5.0)).of(predictions).tolist() == [3.5, 5.0]
