"""Training the scope classifier: frame network, trees, calibration; judged on relations it has not seen.

The relations are dealt into folds. A network tuned without a fold gives the logits of that fold's pairs, so the trees
learn how far to trust the network on a relation that is new to it, and the report says how good it is there. Networks
are kept in the output folder as they are finished: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.memory.calibration import area_under_roc, expected_calibration_error, platt, sigmoid
from corrigenda.memory.encoder import MiniLM, package_folder
from corrigenda.memory.features import pair_frames
from corrigenda.memory.frame_network import FrameNetwork
from corrigenda.memory.judge import INPUTS, RISING, Pair, paired, plain_inputs
from corrigenda.memory.scope_augmentation import FramePair, invented, varied
from corrigenda.memory.scope_pairs import LabelledPair, relation_groups
from corrigenda.memory.texts import index_text
from corrigenda.memory.trees import Trees, boosting, fit

Numbers = NDArray[np.float64]
Progress = Callable[[str], None]

_DEFAULT_THRESHOLD = 0.9
"""Chosen with 2,000 training edits live at once: the lowest at which less than 1 % of their neighbours fire."""
DIRECT = ("paraphrase", "question", "alias")
"""Kinds that ask for the edited fact itself."""


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained.

    Attributes:
        epochs: Passes over the pairs of frames.
        rate: Learning rate of the tuned layers.
        folds: How many networks are tuned, each without some of the relations, besides the final one.
        invented: Pairs of frames in our own words that are added, at most.
        rows: Pairs, variations included, that the trees are fitted on.
        trees, leaves: How many trees, and how many leaves each has at most.
        seed: Fixes folds, variations, order and dropout.
    """

    epochs: int = 2
    rate: float = 1e-4
    folds: int = 3
    invented: int = 20_000
    rows: int = 24_000
    trees: int = 150
    leaves: int = 24
    seed: int = 0


def train(
    pairs: Sequence[LabelledPair], out: Path, recipe: Recipe | None = None, progress: Progress = lambda line: None
) -> dict[str, Any]:
    """Train on ``pairs`` and write ``frames.safetensors``, ``trees.safetensors`` and ``scope.json`` into ``out``.

    Args:
        pairs: Labelled pairs; see :func:`~corrigenda.memory.scope_pairs.read_pairs`.
        out: Folder for the result; made if missing.
        recipe: How; the shipped classifier's recipe by default.
        progress: Is told a line now and then.

    Returns:
        The report: measures by fold and overall, also written to ``report.json``.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    boosting()  # is wanted after an hour of tuning, and missed now
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    folds = fold_of(relation_groups(pairs), recipe.folds, recipe.seed)
    networks = [
        _network(
            out,
            f"fold{number}",
            [pair for pair, fold in zip(pairs, folds, strict=True) if fold not in (number, -1)],
            recipe,
            progress,
        )
        for number in range(recipe.folds)
    ]
    final = _network(out, "final", pairs, recipe, progress)
    rows = _rows(pairs, folds, recipe)
    progress(f"features of {len(rows)} pairs")
    plain = inputs([pair for pair, _ in rows])
    unseen, seen = plain.copy(), plain.copy()
    for number, network in enumerate(networks):
        _fill_logits(unseen, rows, network, number)
    _fill_logits(seen, rows, final, None)
    report, trees, calibration, threshold = _fit_trees(rows, seen, unseen, recipe, progress)
    final.save(out / "frames.safetensors")
    _save(out, final, trees, calibration, threshold, recipe, report)
    return report


def fold_of(groups: Sequence[int], count: int, seed: int) -> list[int]:
    """Return a fold, 0 to ``count`` − 1, per pair: whole groups, dealt out largest first; −1 for no known group."""
    sizes = Counter(groups)
    names = sorted(set(groups) - {-1}, key=lambda group: (-sizes[group], group))
    order = random.Random(seed)
    side: dict[int, int] = {}
    for first in range(0, len(names), count):
        numbers = list(range(count))
        order.shuffle(numbers)
        side.update(zip(names[first : first + count], numbers, strict=False))
    return [side.get(group, -1) for group in groups]


def frame_pairs(pairs: Sequence[LabelledPair], recipe: Recipe) -> list[FramePair]:
    """Return what the network is tuned on: frames of ``pairs`` and their variations, and invented ones."""
    rng = random.Random(recipe.seed)
    found = [(*frames, pair.label) for pair in varied(pairs, rng) if (frames := pair.frames()) is not None]
    more = invented(pairs, rng)
    return [*found, *rng.sample(more, min(len(more), recipe.invented))]


def inputs(pairs: Sequence[LabelledPair]) -> Numbers:
    """Return what the trees go by of ``pairs``, (n, len(INPUTS)), the logits still missing."""
    encoder = MiniLM.load()
    judged = [Pair(pair.edit, *pair.judged(), 0.0) for pair in pairs]
    rows = plain_inputs(judged)
    frames, names = paired(judged)
    wanted = {"similarity": {place: (index_text(pair.edit), pair.query) for place, pair in enumerate(judged)}}
    wanted |= {"frames": frames, "named": names}
    texts = sorted({text for of in wanted.values() for both in of.values() for text in both})
    place_of = {text: row for row, text in enumerate(texts)}
    vectors = encoder.encode(texts)
    for name, of in wanted.items():
        left, right = ([place_of[both[side]] for both in of.values()] for side in (0, 1))
        rows[list(of), INPUTS.index(name)] = (vectors[left] * vectors[right]).sum(axis=1)
    return rows


def measures(kinds: Sequence[str], labels: NDArray[np.int64], scores: Numbers) -> dict[str, Any]:
    """Return AUROC, true-positive rates at fixed false-positive rates, and by kind the share above the 1 % one."""
    kind = np.array(kinds)
    direct = np.isin(kind, DIRECT) & (labels > 0)
    limits = {rate: float(np.quantile(scores[labels == 0], 1 - rate)) for rate in (0.01, 0.001)}
    above = scores > limits[0.01]
    return {
        "auroc": area_under_roc(labels, scores),
        "tpr_at_fpr": {str(rate): float((scores[direct] > limit).mean()) for rate, limit in limits.items()},
        "by_kind": {
            name: {"n": int((kind == name).sum()), "rate": float(above[kind == name].mean())}
            for name in sorted(set(kinds))
        },
        "threshold": limits[0.01],
    }


def _network(out: Path, name: str, pairs: Sequence[LabelledPair], recipe: Recipe, progress: Progress) -> FrameNetwork:
    """Tune a network, or load it if an earlier run with the same pairs and recipe has finished it."""
    from corrigenda.memory.frame_training import tune

    frames = frame_pairs(pairs, recipe)
    mark = hashlib.sha256(repr((frames, recipe.epochs, recipe.rate, recipe.seed)).encode()).hexdigest()[:12]
    path = out / f"{name}-{mark}.part.safetensors"
    if path.is_file():
        progress(f"{name}: found {path.name}")
        return FrameNetwork.load(package_folder(), path)
    progress(f"{name}: tuning on {len(frames)} pairs of frames")
    network = tune(frames, epochs=recipe.epochs, rate=recipe.rate, seed=recipe.seed, progress=progress)
    network.save(path)
    return FrameNetwork.load(package_folder(), path)  # in half precision, as it is served


def _rows(pairs: Sequence[LabelledPair], folds: Sequence[int], recipe: Recipe) -> list[tuple[LabelledPair, int]]:
    rng = random.Random(recipe.seed + 1)
    known = {id(pair): fold for pair, fold in zip(pairs, folds, strict=True)}
    by_edit = {pair.edit: fold for pair, fold in zip(pairs, folds, strict=True)}
    rows = [(pair, known.get(id(pair), by_edit[pair.edit])) for pair in varied(pairs, rng)]
    return rng.sample(rows, min(len(rows), recipe.rows))


def _fill_logits(
    matrix: Numbers, rows: Sequence[tuple[LabelledPair, int]], network: FrameNetwork, fold: int | None
) -> None:
    from corrigenda.memory.frame_training import frame_logits

    wanted, frames = [], []
    for place, (pair, own) in enumerate(rows):
        texts = pair_frames(pair.edit, *pair.judged()) if fold in (None, own) else None
        if texts is not None:
            wanted.append(place)
            frames.append(texts)
    if wanted:
        matrix[wanted, -2:] = frame_logits(network, frames)


def _fit_trees(
    rows: Sequence[tuple[LabelledPair, int]], seen: Numbers, unseen: Numbers, recipe: Recipe, progress: Progress
) -> tuple[dict[str, Any], Trees, tuple[float, float], float]:
    """Fit the trees on logits of seen and unseen relations; calibrate and report on what was left out in turn.

    Subjects are left out for the one, relations for the other: trees that know a relation's pairs of frames by their
    logits are no judges of how well a new relation fares.
    """
    pairs, folds = [pair for pair, _ in rows], np.array([fold for _, fold in rows])
    labels = np.array([pair.label > 0 for pair in pairs], dtype=np.int64)
    half = np.array([int(hashlib.sha256(pair.edit.prompt.encode()).hexdigest(), 16) % 2 for pair in pairs])
    known = folds >= 0
    rising = [INPUTS.index(name) for name in RISING]

    def without(left_out: NDArray[np.bool_]) -> Trees:
        kept = ~left_out
        numbers = np.concatenate([seen[kept], unseen[kept & known]])
        truth = np.concatenate([labels[kept], labels[kept & known]])
        return fit(numbers, truth, count=recipe.trees, leaves=recipe.leaves, rising=rising, seed=recipe.seed)

    scores_seen, scores_unseen = np.zeros(len(labels)), np.zeros(len(labels))
    for side in (0, 1):
        scores_seen[half == side] = without(half == side).score(seen[half == side])
    for fold in sorted(set(folds[known].tolist())):
        scores_unseen[folds == fold] = without((folds == fold) | ~known).score(unseen[folds == fold])
    progress("trees without some subjects, and without some relations")
    calibration = platt(scores_seen, labels)
    chances = sigmoid(calibration[0] * scores_seen + calibration[1])
    kinds = np.array([pair.kind for pair in pairs])
    plain = np.isin(kinds, list(_PLAIN))
    new = plain & known
    report = {
        "seen_relations": measures(kinds[plain].tolist(), labels[plain], scores_seen[plain]),
        "unseen_relations": measures(kinds[new].tolist(), labels[new], scores_unseen[new]),
        "variations": measures(kinds.tolist(), labels, scores_seen)["by_kind"],
        "ece": expected_calibration_error(labels, chances),
    }
    return report, without(np.zeros(len(labels), dtype=bool)), calibration, _DEFAULT_THRESHOLD


_PLAIN = frozenset(
    {*DIRECT, "multi_hop", "same_object", "same_relation_other_subject", "same_subject_other_relation", "unrelated"}
)


def _save(
    out: Path,
    network: FrameNetwork,
    trees: Trees,
    calibration: tuple[float, float],
    threshold: float,
    recipe: Recipe,
    report: dict[str, Any],
) -> None:
    from safetensors.numpy import save_file

    save_file(trees.arrays(), out / "trees.safetensors")
    settings = {
        "inputs": list(INPUTS),
        "scale": network.scale.tolist(),
        "bias": network.bias.tolist(),
        "calibration": list(calibration),
        "threshold": threshold,
        "recipe": asdict(recipe),
    }
    (out / "scope.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
