"""What a report can be made of: a model that shows its routing and runs every expert on any row.

`Source` is what `measure.py` needs, and nothing else; `RunSource` is one of our run folders, and
`huggingface.py` has the other. A run's checkpoint is opened without the trainer. It computes in
fp32 whatever it was trained in, so that rounding is no part of what is measured.

Shapes: B streams, M block, T = B*M tokens, D model width, H expert hidden width, N experts,
K experts per token.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli import __version__, saved
from simsmoe_cli.collapse.findings import History, Subject
from simsmoe_cli.collapse.history import read_history
from simsmoe_cli.collapse.windows import tokens_together, windows
from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.data.streams import IGNORED, Tokens
from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import RouteContext, Routing
from simsmoe_cli.rundir import RunDir


@dataclass(frozen=True)
class LayerSpec:
    """One layer with experts: its module's name, and N."""

    name: str
    experts: int


@dataclass
class Routed:
    """What one layer did with some tokens.

    Attributes:
        input_TD: what its experts are given.
        index_TK: chosen experts; N for an empty slot.
        logits_TN: the router's scores.
    """

    input_TD: Tensor
    index_TK: Tensor
    logits_TN: Tensor


@dataclass
class Batch:
    """Some tokens after they went through the model.

    Attributes:
        ids_T: the tokens.
        layers: what each layer did with them.
        rows: whether similarity is to be measured on them.
        nats: summed cross-entropy of the predicted ones.
        scored: how many were predicted.
    """

    ids_T: Tensor
    layers: list[Routed]
    rows: bool
    nats: float
    scored: int


@dataclass
class Source(ABC):
    """A model and held-out text.

    Attributes:
        subject: what it is.
        layers: those with experts, in order.
        corpus, split, notes, unit: of the text, as in `findings.Text`.
        block: tokens it sees at once.
        history: of its training.
    """

    subject: Subject
    layers: list[LayerSpec]
    corpus: str
    split: str
    unit: str
    block: int
    notes: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)

    @abstractmethod
    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        """Run text through the model, without gradients and in evaluation mode.

        Args:
            tokens: to read, about; fewer if the split has no more.
            rows: of them for similarity, about.
        """

    @abstractmethod
    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        """Every expert of a layer on the same rows, without dropout, [N, T, D] fp32."""

    @abstractmethod
    def weights(self, layer: int) -> list[Tensor]:
        """A layer's expert weights by hidden unit, one [N, H, weights of a unit] per matrix."""

    @abstractmethod
    def text_of(self, ids: list[int]) -> list[str]:
        """Each token as text."""


class RunSource(Source):
    """A checkpoint of a run folder; see `open_run`."""

    def __init__(
        self, model: LanguageModel, context: RouteContext, store: TokenStore, **facts: Any
    ):
        super().__init__(**facts)
        self.model = model.eval()
        self.context = context
        self.store = store
        self.tokens: Tokens = store.split(self.split)

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        carries = self.model.position is not None
        device = next(self.model.parameters()).device
        memory: list[Tensor] = []
        together = tokens_together(self.model.vocab_size)
        for inputs, targets, measured in windows(
            self.tokens, self.block, tokens, rows, carries, together
        ):
            with torch.no_grad():
                batch, memory = self._run(inputs.to(device), targets.to(device), memory)
            batch.rows = measured
            yield batch

    def _run(
        self, inputs_BM: Tensor, targets_BM: Tensor, memory: list[Tensor]
    ) -> tuple[Batch, list[Tensor]]:
        taken: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
            for layer in self.model.moe_layers
        ]
        try:
            output = self.model(inputs_BM, memory, self.context)
        finally:
            for hook in hooks:
                hook.remove()
        routings: list[Routing] = [layer.routing for layer in output.moe]
        real_T = targets_BM.flatten() != IGNORED
        layers = [
            Routed(x.flatten(0, -2)[real_T], routing.index_TK[real_T], routing.logits_TN[real_T])
            for x, routing in zip(taken, routings, strict=True)
        ]
        nats = F.cross_entropy(
            output.logits.flatten(0, 1).float(),
            targets_BM.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        batch = Batch(
            inputs_BM.flatten()[real_T], layers, False, nats.item(), int(real_T.sum().item())
        )
        return batch, output.memory

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.moe_layers[layer].experts.dense(x_TD).float()

    def weights(self, layer: int) -> list[Tensor]:
        experts = self.model.moe_layers[layer].experts
        entering, leaving = experts.w_in.detach(), experts.w_out.detach().mT
        if experts.b_in is not None:
            entering = torch.cat([entering, experts.b_in.detach()[..., None]], dim=-1)
        # SwiGLU stacks gate and up: a hidden unit has a row of each.
        halves = list(entering.chunk(2, dim=1)) if experts.swiglu else [entering]
        return [*halves, leaving]

    def text_of(self, ids: list[int]) -> list[str]:
        return [self.store.tokenizer.decode([token]) for token in ids]


def checkpoints(run: RunDir, which: str) -> list[str]:
    """What `open_run` is to open, oldest first: "all" names every step, and best if it is none.

    Raises:
        UserError: there is none.
    """
    if which != "all":
        return [which]
    steps = [step for step, _ in saved.list_checkpoints(run)]
    if not steps:
        saved.find(run, "best")
        return ["best"]
    names = {step: str(step) for step in steps}
    if (run.best / saved.STATE).is_file():
        names.setdefault(int(saved.read_state(run.best)["step"]), "best")
    return [names[step] for step in sorted(names)]


def open_run(
    run: RunDir,
    checkpoint: str = "best",
    *,
    split: str = "valid",
    data_dir: Path,
    device: torch.device,
) -> RunSource:
    """A run's weights and a split of the corpus it was trained on.

    Args:
        run: its folder.
        checkpoint: "best", "last" or a step.
        split: "valid", "test" or "train".
        data_dir: where the corpus is looked for by name, before the place it had in training.
        device: where to compute.

    Raises:
        UserError: no such checkpoint, split or corpus, another corpus, or a model without experts.
    """
    folder = saved.find(run, checkpoint)
    state = saved.read_state(folder)
    recipe = saved.recipe_of(folder, state)
    if "task" in state:
        raise UserError(
            f"this run was fine-tuned on {state['task']['name']}, and a report needs running text",
            where=str(run.path),
            hint="Report on the run it was fine-tuned from.",
            code=EXIT_DATA,
        )
    if "g" not in recipe.model.pattern:
        raise UserError(
            "this model has no experts, so none can be alike",
            where=str(run.path),
            hint="model.pattern needs a 'g'.",
            code=EXIT_DATA,
        )
    store = _corpus(recipe.data.corpus, state, data_dir)
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    if store.manifest.splits[split].tokens < 2:
        raise UserError(
            f"the {split} split is too short to measure on",
            where=str(store.path),
            hint="Prepare more text, or choose another --split.",
            code=EXIT_DATA,
        )
    model = LanguageModel(portable(recipe, device), state["vocab_size"]).to(device)
    saved.load_weights(folder, state, model)
    names = {module: name for name, module in model.named_modules()}
    return RunSource(
        model,
        RouteContext(step=state["step"], total_steps=recipe.train.steps),
        store,
        subject=Subject(
            kind="run",
            name=run.name,
            recipe=recipe.name,
            router=recipe.moe.router,
            similarity=recipe.similarity.preset,
            settings=recipe.model_dump(mode="json"),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            checkpoint=checkpoint,
            step=state["step"],
            seed=recipe.train.seed,
            simsmoe=__version__,
            torch=torch.__version__,
        ),
        layers=[LayerSpec(names[layer], recipe.moe.experts) for layer in model.moe_layers],
        corpus=store.manifest.name,
        split=split,
        unit=store.manifest.unit,
        block=recipe.train.block,
        notes=[_without_folder(note) for note in store.manifest.warnings],
        history=read_history(run.events),
    )


def _without_folder(note: str) -> str:
    """A corpus's warning with its source's name alone: where it lay is nobody else's business."""
    source, verb, rest = note.partition(" holds ")
    return f"{Path(source).name}{verb}{rest}" if verb else note


def _corpus(name: str, state: dict[str, Any], data_dir: Path) -> TokenStore:
    """The corpus a checkpoint was trained on, by name or where it was then."""
    trained_on = Path(state["store"])
    by_name = is_store(data_dir / name) or not is_store(trained_on)
    store = TokenStore.open(find_store(name, data_dir) if by_name else trained_on)
    if store.manifest.fingerprint != state["corpus"]:
        raise UserError(
            "the prepared corpus is not the one this run was trained on, so its held-out text may "
            "have been trained on",
            where=str(store.path),
            hint="Move it away, or name the right place with --data-dir: the run's was "
            f"{shlex.quote(str(trained_on.parent))}.",
            code=EXIT_DATA,
        )
    return store
