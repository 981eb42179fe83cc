import math

import numpy as np
import pytest

from corrigenda.errors import InvalidRequest
from corrigenda.memory.calibration import (
    area_under_roc,
    expected_calibration_error,
    held_out_rates,
    platt,
    rate_above,
    sigmoid,
    threshold_for,
)


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.005])
@pytest.mark.parametrize("n", [999, 1_500, 2_000])
def test_the_false_fire_rate_keeps_its_bound_over_random_splits(rate, n):
    scores = np.random.default_rng(0).beta(0.5, 6, size=2 * n)
    rates = held_out_rates(rate, scores, splits=50)
    # The expected rate is at most α; three standard errors for the luck of 50 splits.
    assert np.mean(rates) <= rate + 3 * np.std(rates) / math.sqrt(len(rates))
    assert np.mean(rates) > rate / 2


def test_a_split_needs_two_scores():
    with pytest.raises(InvalidRequest, match="split in two"):
        held_out_rates(0.05, [0.5])


def test_the_rank_is_the_one_of_split_conformal_prediction():
    scores = np.arange(99) / 100
    threshold = threshold_for(0.1, scores)  # ⌈100 · 0.9⌉ = 90th smallest
    assert threshold == pytest.approx(0.89)
    assert threshold > 0.89
    assert threshold_for(0.01, scores) > 0.98
    assert threshold_for(0.009, scores) == math.inf  # too few scores bound nothing


def test_traffic_that_comes_near_to_no_edit_does_not_lower_the_threshold():
    assert threshold_for(0.1, [0.0] * 99, least=0.9) == 0.9
    assert threshold_for(0.1, [0.95] * 99, least=0.9) > 0.95
    assert threshold_for(0.001, [0.0] * 99, least=0.9) == math.inf


def test_ties_do_not_fire():
    assert rate_above([0.5] * 100, threshold_for(0.05, [0.5] * 100)) == 0


@pytest.mark.parametrize(("rate", "scores"), [(0, [0.1]), (1, [0.1]), (0.1, []), (0.1, [math.nan])])
def test_what_bounds_nothing_is_refused(rate, scores):
    with pytest.raises(InvalidRequest):
        threshold_for(rate, scores)


def test_calibration_error():
    assert expected_calibration_error([1, 1, 0, 0], [1.0, 1.0, 0.0, 0.0]) == 0
    assert expected_calibration_error([0, 0], [0.9, 0.9]) == pytest.approx(0.9)


def test_area_under_the_curve_counts_ties_half():
    assert area_under_roc([1, 0], [0.9, 0.1]) == 1
    assert area_under_roc([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]) == 0.5
    assert area_under_roc([0, 1], [0.9, 0.1]) == 0
    assert math.isnan(area_under_roc([1, 1], [0.1, 0.2]))


def test_platt_recovers_a_logistic_and_survives_separable_scores():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=20_000)
    labels = rng.random(20_000) < sigmoid(2 * scores - 1)
    slope, shift = platt(scores, labels)
    assert slope == pytest.approx(2, abs=0.1)
    assert shift == pytest.approx(-1, abs=0.1)
    slope, shift = platt([-1.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50)
    assert np.isfinite([slope, shift]).all()
    assert slope > 0


def test_small_tools():
    assert sigmoid([-1000, 0, 1000]).tolist() == [0, 0.5, 1]
    assert math.isnan(rate_above([], 0.5))
