import numpy as np
import pytest

from corrigenda.memory.calibration import sigmoid
from corrigenda.memory.trees import Trees, fit

STUMP = {"feature": [0, -1, -1], "limit": [0.5, 0, 0], "left": [1, -1, -1], "right": [2, -1, -1], "value": [9, -1, 2]}
LEAF = {"feature": [-1], "limit": [0], "left": [-1], "right": [-1], "value": [0.25]}


def test_trees_of_unequal_size_add_up():
    trees = Trees.build([STUMP, LEAF], depth=2)
    np.testing.assert_allclose(trees.score(np.array([[0.5], [0.6]])), [-0.75, 2.25])
    assert trees.score(np.empty((0, 1))).shape == (0,)


def test_what_was_saved_scores_the_same():
    trees = Trees.build([STUMP, LEAF], depth=2)
    rows = np.random.default_rng(0).random((50, 1))
    np.testing.assert_array_equal(Trees.restore(trees.arrays()).score(rows), trees.score(rows))


def test_fitted_trees_learn_what_no_line_can():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    rows = rng.random((2000, 3))
    labels = ((rows[:, 0] > 0.5) ^ (rows[:, 1] > 0.5)).astype(np.int64)
    trees = fit(rows[:1500], labels[:1500], count=40, leaves=8, seed=1)
    guesses = sigmoid(trees.score(rows[1500:])) > 0.5
    assert (guesses == labels[1500:]).mean() > 0.95
    again = fit(rows[:1500], labels[:1500], count=40, leaves=8, seed=1)
    np.testing.assert_array_equal(again.score(rows), trees.score(rows))


def test_built_trees_score_as_scikit_learn_does():
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(800, 4))
    labels = (rows[:, 0] + rows[:, 1] ** 2 + rng.normal(size=800) > 1).astype(np.int64)
    trees = fit(rows, labels, count=30, leaves=12, rising=(0,), seed=3)
    model = ensemble.HistGradientBoostingClassifier(
        max_iter=30,
        max_leaf_nodes=12,
        learning_rate=0.1,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        monotonic_cst=[1, 0, 0, 0],
        random_state=3,
    ).fit(rows, labels)
    np.testing.assert_allclose(trees.score(rows), model.decision_function(rows), atol=1e-9)
    low, high = rows.copy(), rows.copy()
    high[:, 0] += 1
    assert (trees.score(high) >= trees.score(low)).all()
