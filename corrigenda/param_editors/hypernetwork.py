"""Editors that were trained: a network reads the gradient of an edit and says how the weights shall change.

MEND and KE share the way they are trained (:mod:`.hyper_training`), kept in files, and applied: the gradients of all
edits in one backward pass, the networks' factors added up, and printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, MissingTraining, ModelDamaged
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.files import read_tensors, write_tensors
from corrigenda.param_editors.gradients import Factors
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.passes import updates_in_passes
from corrigenda.param_editors.rows import check_edits
from corrigenda.param_editors.sampling import Contexts
from corrigenda.param_editors.silence import inputs_of_others
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation
from corrigenda.param_editors.upper import Text, Upper
from corrigenda.paths import cache_dir

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

FORMAT = "corrigenda-hypernetwork/1"
TOKENS = ("all", "subject")
MATRICES = ("all", "down")


@dataclass(frozen=True)
class HyperParams(EditorParams):
    """Hyper-parameters of trained editors; ``layers`` are the blocks whose feed-forward matrices are written.

    Attributes:
        rank: Width of the bottleneck of the networks.
        tokens: Whose gradients the networks read: of "all" tokens, as in the papers, or of the "subject"'s last one.
        matrices: "all" of a feed-forward, or the "down"-projection only.
        weights: File of trained networks; by default the one in the cache or in the package for this model.
        lengths: What an update may be multiplied by, ascending: the first at which the loss is ``enough``, or else the
            best. (1,) is the papers' method.
        passes: How often the networks may be asked, each time with the gradient that is left; 1 is the papers' method.
        enough: Mean loss of a target token at which an edit is done.
        others: How many other subjects, 0…32, an update is made silent on (:mod:`.silence`); 0 is the papers' method.
        batch_size: Edits of a backward pass.
    """

    rank: int = 192
    tokens: str = "all"
    matrices: str = "all"
    weights: str | None = None
    lengths: tuple[float, ...] = (1.0,)
    passes: int = 1
    enough: float = 0.1
    others: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, "rank", least=1)
        require_whole(self, "batch_size", least=1)
        require_whole(self, "passes", least=1)
        object.__setattr__(self, "lengths", tuple(map(float, self.lengths)))
        if not self.lengths or self.lengths[0] <= 0 or list(self.lengths) != sorted(set(self.lengths)):
            raise InvalidParams(f"lengths must ascend from above 0, not {self.lengths}")
        require(self, "enough", least=0)
        require_whole(self, "others", least=0)
        for name, choices in (("tokens", TOKENS), ("matrices", MATRICES)):
            if getattr(self, name) not in choices:
                raise InvalidParams(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.weights is not None and not isinstance(self.weights, str):
            raise InvalidParams(f"weights must be the path of a file, not {self.weights!r}")


class Hypernetwork(nn.Module):
    """From the gradients of edits to updates; subclasses say how.

    Attributes:
        modules_written: Names of the linear modules, in order.
        shapes: (d_out, d_in) of each.
    """

    def __init__(self, modules: Sequence[str], shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.modules_written = tuple(modules)
        self.shapes = dict(shapes)

    def updates(
        self, gradients: Mapping[str, Factors], texts: Sequence[Text], *, learn: bool = False
    ) -> dict[str, Factors]:
        """Return the update of each module for E edits, with gradients by the networks' weights.

        Args:
            gradients: From :func:`corrigenda.param_editors.gradients.gradient_factors`.
            texts: The E edits.
            learn: Whether running statistics take these edits in.
        """
        raise NotImplementedError

    def lengthen(self, factor: float) -> None:
        """Multiply the steps that untrained networks take; training begins with the best of several lengths."""
        raise NotImplementedError


def written_modules(anatomy: Anatomy, layers: Sequence[int], matrices: str = "all") -> dict[str, tuple[int, int]]:
    """Return the matrices of the feed-forwards of ``layers``, see :class:`HyperParams`: name → (d_out, d_in)."""
    found = {}
    for layer in layers:
        for name in (*(anatomy.map.mlp_in(layer) if matrices == "all" else ()), anatomy.map.mlp_out(layer)):
            rows, columns = anatomy.linear(name).matrix.shape
            found[name] = (rows, columns)
    return found


class TrainedEditor:
    """What MEND and KE have in common."""

    name = ""
    params_type: type[EditorParams] = HyperParams
    needs_statistics = False

    def build(self, lm: LanguageModel, params: Any, *, seed: int = 0) -> Hypernetwork:
        """Return untrained networks for the model."""
        raise NotImplementedError

    def apply(
        self,
        lm: LanguageModel,
        edits: Sequence[Edit],
        *,
        params: EditorParams | None = None,
        stats: Statistics | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        previous: Consolidation | None = None,
        contexts: Contexts | None = None,
    ) -> Consolidation:
        """Write all edits in one step; see :meth:`corrigenda.param_editors.editor.Editor.apply`.

        Raises:
            MissingTraining: There are no trained networks for this model.
        """
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        anatomy = Anatomy(lm)
        network = self.load(lm, chosen)
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict())
            if chosen.tokens == "subject":
                check_edits(lm, edits)
            texts = [
                Text.of(lm, edit.prompt, edit.target, edit.subject if chosen.tokens == "subject" else None)
                for edit in edits
            ]
            upper = Upper(anatomy, texts, chosen.layers[0])
            parts: dict[str, list[Factors]] = {name: [] for name in network.modules_written}
            losses: list[float] = []
            how = {"passes": chosen.passes, "lengths": chosen.lengths, "enough": chosen.enough}
            for start in range(0, len(edits), chosen.batch_size):
                places = range(start, min(start + chosen.batch_size, len(edits)))
                with draft.timed("others"):
                    last, names = chosen.layers[-1], network.modules_written
                    others = [inputs_of_others(anatomy, edits[place], names, last, chosen.others) for place in places]
                with draft.timed("passes"):
                    passed = updates_in_passes(network, upper, places, **how, others=others if chosen.others else None)
                losses += passed.losses or []
                for name, factors in passed.updates.items():
                    parts[name].append(factors)
                if progress is not None:
                    progress("edits", places.stop, len(edits))
            with draft.timed("writing"):
                for name, found in parts.items():
                    left, right = _flat(found)
                    draft.add(anatomy.linear(name), left.T, right)
            return draft.finish(edits, chosen.to_dict(), details={"losses": losses} if losses else None)

    def load(self, lm: LanguageModel, params: Any) -> Hypernetwork:
        """Return the trained networks for ``lm``; raises :class:`MissingTraining` or :class:`ModelDamaged`."""
        path = self.find(lm, params)
        try:
            tensors, meta = read_tensors(path)
            about = json.loads(meta["about"])
            if meta.get("format") != FORMAT or about["editor"] != self.name:
                raise ModelDamaged(f"{path} holds no networks of {self.name}")
            trained = {name: about.get(name, getattr(params, name)) for name in ("layers", "tokens", "matrices")}
            if params.replace(**trained) != params:
                raise ModelDamaged(f"{path} was trained for {trained}", remedy="Give these parameters, or train anew.")
            own = params.replace(rank=about["rank"])
            network = self.build(lm, own).to(lm.device)
            network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ModelDamaged(
                f"{path} cannot be used for {lm.name}: {str(error).splitlines()[0]}",
                remedy=f"Train anew: corrigenda {self.name} train.",
            ) from error
        return network.eval()

    def reads(self, lm: LanguageModel, params: Any) -> tuple[Path, ...]:
        """Return the files that decide what the editor does, besides its parameters."""
        return (self.find(lm, params),)

    def find(self, lm: LanguageModel, params: Any) -> Path:
        """Return the file of trained networks: as given, in the cache, or in the package."""
        if params.weights is not None:
            path = Path(params.weights)
            if path.is_file():
                return path
            raise MissingTraining(f"there is no file {path}", remedy="Give the file that training wrote.")
        own = default_path(self.name, lm)
        if own.is_file():
            return own
        shipped = files("corrigenda.param_editors") / "weights" / f"{self.name}-{lm.name}.safetensors"
        if shipped.is_file():
            with as_file(shipped) as path:
                return path
        raise MissingTraining(
            f"{self.name} has not been trained for {lm.name}",
            remedy=f"Run: corrigenda {self.name} train --model {lm.name} --data FILE",
        )

    def save(self, network: Hypernetwork, path: Path, about: Mapping[str, Any]) -> Path:
        """Write networks in half precision; the file appears whole or not at all."""
        learned = {name for name, _ in network.named_parameters()}
        # Statistics stay whole: squares of gradients are smaller than any half-precision number.
        tensors = {
            name: (tensor.half() if name in learned else tensor).cpu().contiguous()
            for name, tensor in network.state_dict().items()
        }
        write_tensors(path, tensors, {"format": FORMAT, "about": json.dumps({"editor": self.name, **about})})
        return path


def default_path(method: str, lm: LanguageModel) -> Path:
    """Return where trained networks for ``lm`` are kept."""
    return cache_dir() / "editors" / f"{method}-{lm.fingerprint}.safetensors"


def _flat(parts: Sequence[Factors]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all rows of all edits: (n, d_out) and (n, d_in), without those of padding, which are zero."""
    left = torch.cat([part.left.flatten(0, 1) for part in parts])
    right = torch.cat([part.right.flatten(0, 1) for part in parts])
    used = (left.abs().sum(1) > 0) & (right.abs().sum(1) > 0)
    return left[used], right[used]
