"""Boosted trees, evaluated with numpy alone: training needs scikit-learn, serving does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.errors import MissingExtra

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """A sum of binary decision trees. Legend: k trees, m nodes of the largest, n rows, f features.

    Attributes:
        feature: (k, m) which feature a node asks for; −1 for a leaf.
        limit: (k, m) a row goes left when its feature is at most this.
        left, right: (k, m) child nodes; a leaf is its own child.
        value: (k, m) what a leaf adds.
        depth: Steps from any root to a leaf, at most.
    """

    feature: NDArray[np.int32]
    limit: Numbers
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Numbers
    depth: int

    def score(self, rows: Numbers) -> Numbers:
        """Return the sums (n,) for ``rows`` (n, f)."""
        count = len(self.feature)
        trees = np.arange(count)[None, :]  # (1, k)
        places = np.arange(len(rows))[:, None]  # (n, 1)
        node = np.zeros((len(rows), count), dtype=np.int32)  # (n, k)
        for _ in range(self.depth):
            feature = np.maximum(self.feature[trees, node], 0)
            goes_left = rows[places, feature] <= self.limit[trees, node]
            node = np.where(goes_left, self.left[trees, node], self.right[trees, node])
        return self.value[trees, node].sum(axis=1)  # type: ignore[no-any-return]

    @classmethod
    def build(cls, trees: Sequence[Mapping[str, Any]], depth: int) -> Trees:
        """Build the sum from trees given as lists ``feature``, ``limit``, ``left``, ``right``, ``value`` by node."""
        most = max(len(tree["feature"]) for tree in trees)
        shape = (len(trees), most)
        feature, left, right = np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        limit, value = np.zeros(shape), np.zeros(shape)
        for row, tree in enumerate(trees):
            size = len(tree["feature"])
            own = np.arange(size)
            leaf = np.asarray(tree["feature"]) < 0
            feature[row, :size] = np.where(leaf, -1, tree["feature"])
            limit[row, :size] = tree["limit"]
            left[row, :size] = np.where(leaf, own, tree["left"])
            right[row, :size] = np.where(leaf, own, tree["right"])
            value[row, :size] = tree["value"]
        return cls(feature, limit, left, right, value, depth)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the trees as named arrays, to save; :meth:`restore` is the inverse."""
        return {
            "feature": self.feature,
            "limit": self.limit,
            "left": self.left,
            "right": self.right,
            "value": self.value,
            "depth": np.array([self.depth], dtype=np.int32),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> Trees:
        """Build the trees from what :meth:`arrays` returned."""
        return cls(
            arrays["feature"],
            arrays["limit"],
            arrays["left"],
            arrays["right"],
            arrays["value"],
            int(arrays["depth"][0]),
        )


def boosting() -> Any:
    """Return scikit-learn's class of boosted trees. Raises :class:`MissingExtra`."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise MissingExtra.named("train", "sklearn") from error
    return HistGradientBoostingClassifier


def fit(
    rows: Numbers,
    labels: NDArray[np.int64],
    *,
    count: int = 150,
    leaves: int = 24,
    rising: Sequence[int] = (),
    seed: int = 0,
) -> Trees:
    """Fit trees whose sum is the log-odds of label 1, by gradient boosting.

    Args:
        rows: (n, f).
        labels: (n,) of 0 and 1.
        count: How many trees.
        leaves: How many leaves each has at most.
        rising: Features with which the sum never falls.
        seed: Makes it repeatable.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    model = boosting()(
        max_iter=count,
        max_leaf_nodes=leaves,
        learning_rate=0.1,
        min_samples_leaf=20,
        l2_regularization=1.0,
        monotonic_cst=[int(place in rising) for place in range(rows.shape[1])],
        early_stopping=False,
        random_state=seed,
    )
    model.fit(rows, labels)
    # scikit-learn has no public access to the trees; a test compares what is built of them with its own scores.
    nodes = [predictor.nodes for (predictor,) in model._predictors]
    trees = [
        {
            "feature": np.where(of["is_leaf"], -1, of["feature_idx"]),
            "limit": of["num_threshold"],
            "left": of["left"],
            "right": of["right"],
            "value": of["value"],
        }
        for of in nodes
    ]
    start = float(np.ravel(model._baseline_prediction)[0])
    trees.append({"feature": [-1], "limit": [0.0], "left": [0], "right": [0], "value": [start]})
    return Trees.build(trees, max(int(of["depth"].max()) for of in nodes))
