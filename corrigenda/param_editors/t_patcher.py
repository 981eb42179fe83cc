"""T-Patcher: one neuron for every token that the model gets wrong (Huang et al., ICLR 2023).

The neurons stand in the last feed-forward, next to the head, and all else stays frozen. For a wrong token, the input q
of that feed-forward at the place where the token is predicted is the neuron's query: its key starts at q/‖q‖², so that
it is 1 there, and key and value are trained to

* say the token: cross-entropy with label smoothing, over all tokens of the target;
* answer to the edit: ``exp(act_margin − k·q)``, L_a;
* be silent otherwise: over the ``memory_top`` most excited inputs m of a memory,
  ``exp(k·m − k·q + gap)`` and ``exp(k·m + silence)``, the two parts of L_m.

In a gated block the key is the neuron's gate, and the row of the up-projection is trained along with it. The memory has
inputs from text that the model samples, from the edit's prompt about other subjects, and from earlier edits.

The published code passes its margins to the encoder models only; on the generative path they are 0. Here they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from corrigenda.edit import Edit
from corrigenda.errors import InvalidParams, UnstableUpdate, UnsupportedArchitecture, about
from corrigenda.lm.hooks import Tap
from corrigenda.lm.packed import packed
from corrigenda.lm.tokens import pad, token_ids
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.draft import Draft
from corrigenda.param_editors.editor import Progress, checked_params
from corrigenda.param_editors.forwards import Resumed, call, last_states
from corrigenda.param_editors.neurons import Neurons, activation_name, activations, attach, detach, takes_bias
from corrigenda.param_editors.others import about_others
from corrigenda.param_editors.params import EditorParams, require, require_whole
from corrigenda.param_editors.rows import target_ids
from corrigenda.param_editors.sampling import STARTS, Contexts, every, sample, sample_contexts
from corrigenda.param_editors.statistics import Statistics
from corrigenda.param_editors.update import Consolidation

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

_SAMPLED = 32  # tokens of a row of sampled text
_ROWS = 32  # of them in a forward pass
_MOST_EXCITED = 20.0  # exp of more would only overflow; its gradient is large enough


@dataclass(frozen=True)
class TPatcherParams(EditorParams):
    """Hyper-parameters of T-Patcher; ``layers`` is the last block, and may be left to the preset.

    Attributes:
        lr: Learning rate of Adam.
        steps: Most steps for an edit.
        check_every: Steps between two looks at whether the edit is done.
        amplify: a: values are trained as v and written as a·v.
        smoothing: Label smoothing of the cross-entropy.
        act_weight, act_margin: Weight of L_a, and what k·q should exceed.
        memory_weight: Weight of L_m.
        gap, silence: Margins of L_m: k·m shall be below k·q − gap, and below −silence.
        memory_top: How many of the most excited inputs count.
        memory_tokens: Tokens of sampled text in the memory.
        others: How many other subjects the prompt is asked about, 0…32.
        max_neurons: Most neurons of an edit.
        sure: Probability of every target token at which an edit is done.
        contexts: (length, how many) of sampled beginnings that the edit is trained behind, besides the bare prompt.
    """

    lr: float = 0.01
    steps: int = 600
    check_every: int = 25
    amplify: float = 10.0
    smoothing: float = 0.1
    act_weight: float = 1.0
    act_margin: float = 1.0
    memory_weight: float = 10.0
    gap: float = 3.0
    silence: float = 3.0
    memory_top: int = 1_000
    memory_tokens: int = 2_000
    others: int = 32
    max_neurons: int = 5
    sure: float = 0.8
    contexts: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != 1:
            raise InvalidParams(f"T-Patcher writes beside one block, not {self.layers}")
        object.__setattr__(self, "contexts", tuple(tuple(group) for group in self.contexts))
        for name in ("lr", "amplify"):
            require(self, name, above=0)
        for name in ("smoothing", "act_weight", "memory_weight", "sure"):
            require(self, name, least=0)
        for name in ("steps", "check_every", "memory_top", "max_neurons"):
            require_whole(self, name, least=1)
        for name in ("memory_tokens", "others"):
            require_whole(self, name, least=0)


class TPatcher:
    """A neuron for each wrong token."""

    name = "t-patcher"
    params_type: type[EditorParams] = TPatcherParams
    needs_statistics = False
    adds_neurons = True

    def __init__(self) -> None:
        # Inputs of the last feed-forward do not change with patches beside it: one memory serves a chain.
        self._memory: tuple[object, torch.Tensor] | None = None

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
        """Train patches one edit after the other; see :meth:`corrigenda.param_editors.editor.Editor.apply`."""
        chosen: Any = checked_params(params, self.params_type, self.name, lm)
        if lm.is_encoder_decoder:
            raise UnsupportedArchitecture(f"{lm.name} is an encoder-decoder", remedy="Use calinet, mend or ft-m.")
        anatomy = Anatomy(lm)
        if chosen.layers[0] != anatomy.map.count - 1:
            raise InvalidParams(
                f"T-Patcher writes beside the last block, {anatomy.map.count - 1}, not {chosen.layers[0]}",
                remedy="In a lower block the neurons' outputs would change the inputs of others.",
            )
        with Draft(lm, self.name, max_norm_ratio=chosen.max_norm_ratio) as draft:
            if not edits:
                return draft.finish([], chosen.to_dict(), carry=previous.carry if previous else None)
            if contexts is None:
                contexts = sample_contexts(lm, chosen.contexts, seed)
            with draft.timed("memory"), packed(lm.model):
                memory = self._remembered(anatomy, chosen, seed)
            earlier = previous.carry.get("queries") if previous is not None else None
            # The head is nearly all of a step's cost and only passes gradients on: half precision reads it faster.
            head = [lm.model.get_output_embeddings()]
            with draft.timed("training"), packed(lm.model, head, gradients=True, half=True):
                run = _Run(anatomy, chosen, [memory] if earlier is None else [memory, earlier.to(lm.device)])
                groups = run.patch_all(edits, every(contexts), progress)
            draft.notes += run.notes
            carry = {"queries": torch.cat([*([] if earlier is None else [earlier]), *run.queries]).cpu()}
            return draft.finish(
                edits,
                chosen.to_dict(),
                details={"edits": run.details},
                carry=carry,
                neurons=[joined(groups)] if groups else [],
            )

    def _remembered(self, anatomy: Anatomy, params: TPatcherParams, seed: int) -> torch.Tensor:
        mark = (anatomy.lm.fingerprint, params.memory_tokens, seed)
        if self._memory is None or self._memory[0] != mark:
            self._memory = mark, memory_inputs(anatomy, params, seed)
        return self._memory[1].to(anatomy.lm.device)


@torch.no_grad()
def memory_inputs(anatomy: Anatomy, params: TPatcherParams, seed: int) -> torch.Tensor:
    """Return inputs of the last feed-forward on text sampled from the model, (≤ memory_tokens, d) float32."""
    lm, last = anatomy.lm, anatomy.map.count - 1
    if not params.memory_tokens:
        return torch.zeros(0, anatomy.map.hidden_size, device=lm.device)
    count = -(-params.memory_tokens // _SAMPLED)
    starts = [token_ids(lm, STARTS[place % len(STARTS)]) for place in range(count)]
    rows = sample(lm, starts, _SAMPLED, top_k=0, generator=torch.Generator().manual_seed(seed))
    name = anatomy.map.mlp_in(last)[0]
    seen = []
    for start in range(0, count, _ROWS):
        batch = pad(lm, rows[start : start + _ROWS])
        with Tap(lm.model, [name], outputs=False) as tap:
            call(lm, batch)
        states = tap.inputs[name].float().view(*batch.input_ids.shape, -1)
        seen.append(states[:, -_SAMPLED:].flatten(0, 1))
    return torch.cat(seen)[: params.memory_tokens]


def feed_forward_inputs(anatomy: Anatomy, rows: Sequence[Sequence[int]], layer: int) -> torch.Tensor:
    """Return what the feed-forward of ``layer`` reads at the last token of each row, (rows, d) float32."""
    name = anatomy.map.mlp_in(layer)[0]
    return last_states(anatomy, rows, layer, inputs=[name])[name]


def joined(groups: Sequence[Neurons]) -> Neurons:
    """Return neurons of one block as one group."""
    first = groups[0]

    def together(name: str, dim: int) -> torch.Tensor | None:
        parts = [getattr(group, name) for group in groups]
        return None if parts[0] is None else torch.cat(parts, dim)

    up, down = together("up", 0), together("down", 1)
    assert up is not None
    assert down is not None
    return Neurons(first.layer, up, down, first.activation, together("gate", 0), together("bias", 0))


class _Run:
    """The edits of one call: each sees the neurons of those before it."""

    def __init__(self, anatomy: Anatomy, params: TPatcherParams, memory: list[torch.Tensor]) -> None:
        self.anatomy, self.params, self.memory = anatomy, params, memory
        self.lm, self.layer = anatomy.lm, params.layers[0]
        self.notes: list[str] = []
        self.queries: list[torch.Tensor] = []
        self.details: list[dict[str, Any]] = []

    def patch_all(self, edits: Sequence[Edit], contexts: Sequence[str], progress: Progress | None) -> list[Neurons]:
        """Train the neurons of all edits; none is attached afterwards. Edits that are so already get none."""
        groups: list[Neurons] = []
        try:
            for place, edit in enumerate(edits):
                with about(edit):
                    group = self._patch(edit, contexts)
                if len(group):  # groups of no neurons are all alike, and a group is attached only once
                    groups.append(group)
                    attach(self.lm, group)
                if progress is not None:
                    progress("edits", place + 1, len(edits))
        finally:
            for group in groups:
                detach(self.lm, group)
        return groups

    def _patch(self, edit: Edit, contexts: Sequence[str]) -> Neurons:
        rows, tokens = _token_rows(self.lm, edit, contexts)
        places = [len(row) - 1 for row in rows]
        module = self.anatomy.map.mlp_out(self.layer)
        resumed = Resumed(self.anatomy, rows, places, self.layer, [module])
        wanted = torch.tensor(tokens, device=self.lm.device)
        queries = feed_forward_inputs(self.anatomy, rows, self.layer)
        bare = len(rows) // len(contexts)  # rows of the bare prompt come first
        wrong = (resumed.last_logits.argmax(1) != wanted).nonzero()[:, 0]
        own = wrong[wrong < bare][: self.params.max_neurons]
        if len(own) == 0:
            own = wrong[: self.params.max_neurons]
        memory = [*self.memory, *self.queries, self._others(edit)]
        patch = _Patch(self.lm, self.layer, queries[own], self.params)
        steps = patch.train(resumed, queries, own, wanted, torch.cat(memory)) if len(own) else 0
        sure, right = patch.result(resumed, queries, wanted)
        if not right:
            self.notes.append(f"{edit.prompt!r} did not take after {steps} steps (lowest probability {sure:.2f})")
        self.queries.append(queries.detach())
        self.details.append({"edit": edit.id, "neurons": len(own), "steps": steps, "probability": sure})
        return patch.neurons()

    def _others(self, edit: Edit) -> torch.Tensor:
        """Return inputs where the edit's prompt is asked about somebody else."""
        prompts = about_others(edit, self.params.others)
        if not prompts:
            return torch.zeros(0, self.anatomy.map.hidden_size, device=self.lm.device)
        return feed_forward_inputs(self.anatomy, [token_ids(self.lm, prompt) for prompt in prompts], self.layer)


def _token_rows(lm: LanguageModel, edit: Edit, contexts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Return, for each context and token of the target, what stands before the token, and the token."""
    rows, tokens = [], []
    for context in contexts:
        source, answer = target_ids(lm, context + edit.prompt, edit.target)
        for place, token in enumerate(answer):
            rows.append(source + answer[:place])
            tokens.append(token)
    return rows, tokens


class _Patch:
    """Keys and values of one edit's n neurons, in training."""

    def __init__(self, lm: LanguageModel, layer: int, queries: torch.Tensor, params: TPatcherParams) -> None:
        self.params, self.layer = params, layer
        self.activation = activation_name(lm)
        keys = queries / queries.square().sum(1, keepdim=True).clamp(min=1e-12)  # k·q = 1
        self.key = keys.clone().requires_grad_()
        self.up = keys.clone().requires_grad_() if lm.layers.gated else None
        self.bias = torch.zeros(len(keys), device=keys.device).requires_grad_() if takes_bias(lm, layer) else None
        self.value = torch.zeros(keys.shape[1], len(keys), device=keys.device).requires_grad_()

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [part for part in (self.key, self.up, self.bias, self.value) if part is not None]

    def excitement(self, x: torch.Tensor) -> torch.Tensor:
        """Return k·x + b, what goes into the activation: (…, n)."""
        found = x @ self.key.T
        return found if self.bias is None else found + self.bias

    def added(self, x: torch.Tensor) -> torch.Tensor:
        up, gate = (self.key, None) if self.up is None else (self.up, self.key)
        return activations(x, up, gate, self.bias, self.activation) @ (self.params.amplify * self.value).T

    def logits(self, resumed: Resumed, queries: torch.Tensor) -> torch.Tensor:
        """Return the logits (R, V) with the patch in place."""
        rows = torch.arange(len(queries), device=queries.device)
        return resumed.logits([self.added(queries)], rows, torch.full_like(rows, -1)).float()

    def train(
        self, resumed: Resumed, queries: torch.Tensor, own: torch.Tensor, wanted: torch.Tensor, memory: torch.Tensor
    ) -> int:
        """Run Adam until the edit is done; return the steps that it took.

        Args:
            resumed: R rows at whose last token the output of the feed-forward can be shifted.
            queries: (R, d) what the feed-forward reads there.
            own: (n,) the rows that the neurons are for.
            wanted: (R,) tokens to be said.
            memory: (M, d) inputs to be silent on.
        """
        optimiser = torch.optim.Adam(self.leaves, lr=self.params.lr)
        quiet = float("inf")
        step = 0
        for step in range(1, self.params.steps + 1):
            with torch.enable_grad():
                logits = self.logits(resumed, queries)
                told = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=self.params.smoothing)
                answer, silence = self.losses(queries[own], memory)
                loss = told + self.params.act_weight * answer + self.params.memory_weight * silence
            if not bool(loss.isfinite()):
                raise UnstableUpdate("the loss of a patch is not finite", remedy="Lower lr.")
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.leaves, 5.0)
            optimiser.step()
            if step % self.params.check_every == 0:
                sure, right = self.result(resumed, queries, wanted)
                still = float(silence.detach())
                if right and sure >= self.params.sure and still > 0.95 * quiet:
                    break
                quiet = still
        return step

    def losses(self, queries: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return L_a and L_m for neurons with these queries (n, d) and a memory (M, d)."""
        own = self.excitement(queries).diagonal()  # (n,)
        answer = _exp(self.params.act_margin - own).mean()
        if not len(memory):
            return answer, torch.zeros_like(answer)
        seen = self.excitement(memory)  # (M, n)
        seen = seen.topk(min(self.params.memory_top, len(seen)), dim=0).values
        return answer, _exp(seen - own + self.params.gap).mean() + _exp(seen + self.params.silence).mean()

    @torch.no_grad()
    def result(self, resumed: Resumed, queries: torch.Tensor, wanted: torch.Tensor) -> tuple[float, bool]:
        """Return the lowest probability of a wanted token, and whether each is the first choice."""
        logits = self.logits(resumed, queries)
        chances = logits.softmax(-1).gather(1, wanted[:, None])[:, 0]
        return float(chances.min()), bool((logits.argmax(1) == wanted).all())

    def neurons(self) -> Neurons:
        """Return what was trained."""
        key, up = self.key.detach().cpu(), None if self.up is None else self.up.detach().cpu()
        return Neurons(
            layer=self.layer,
            up=key if up is None else up,
            down=(self.params.amplify * self.value.detach()).cpu().contiguous(),
            activation=self.activation,
            gate=None if up is None else key,
            bias=None if self.bias is None else self.bias.detach().cpu(),
        )


def _exp(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(max=_MOST_EXCITED).exp()
