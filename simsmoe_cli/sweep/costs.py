"""What the trainings of a sweep cost before they begin: steps, tokens and FLOPs.

The tokens of a fine-tuning are those of its texts, padding left out, by the mean length of some of
them.
"""

from __future__ import annotations

from pathlib import Path

from torch._subclasses import FakeTensorMode

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.encode import encode
from simsmoe_cli.data.tasks.store import Task as Texts
from simsmoe_cli.errors import UserError
from simsmoe_cli.model.flops import forward_flops, similarity_flops, training_flops
from simsmoe_cli.model.interface import classifier
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost as SimilarityCost
from simsmoe_cli.sweep.cells import Cell, as_yaml, baseline_of, recipe_of
from simsmoe_cli.sweep.definition import Definition, Task
from simsmoe_cli.sweep.results import Cost
from simsmoe_cli.train.objectives.classification import some
from simsmoe_cli.train.plan_finetuning import finetuning_recipe
from simsmoe_cli.train.pretrained import Untrained

MEASURED_TEXTS = 1_000  # whose mean length stands for that of a task's texts


def cost_of(recipe: Recipe, vocab_size: int) -> Cost:
    """Steps, tokens and FLOPs of a pre-training."""
    size, train = measure(recipe, vocab_size), recipe.train
    tokens = train.steps * train.batch * train.block
    flops = size.forward_flops_per_token, size.training_flops_per_token
    return _cost(recipe, tokens, *flops, size.similarity)


def finetuning_cost(task: Task, recipe: Recipe, store: TokenStore, data_dir: Path) -> Cost:
    """Steps, tokens and FLOPs of fine-tuning a model on a task.

    Args:
        task: of the sweep.
        recipe: of the model's pre-training, resolved.
        store: the corpus of the pre-training, with its tokenizer.
        data_dir: of prepared tasks.

    Raises:
        UserError: its recipe has errors or does not fit the model, or the task is not prepared.
    """
    tuned, texts = finetuning_recipe(
        Untrained(recipe), task.task, task.recipe, overrides_of(task), data_dir
    )
    count = texts.manifest.splits["train"].examples
    count = min(tuned.finetune.examples or count, count)
    length = _mean_length(texts, min(count, MEASURED_TEXTS), tuned, store)
    train = tuned.train.model_copy(update={"block": max(1, round(length))})
    with FakeTensorMode():
        model = classifier(
            tuned.model_copy(update={"train": train}),
            store.manifest.vocab_size,
            len(texts.labels),
        )
    assert isinstance(model, Backbone)
    forward = forward_flops(model)
    of_batch = round(train.batch // train.micro_batches * length)
    similarity = similarity_flops(tuned, len(model.moe_layers), forward, max(1, of_batch))
    tokens = round(count * tuned.finetune.epochs * length)
    return _cost(tuned, tokens, forward, training_flops(model), similarity)


def overrides_of(task: Task) -> list[str]:
    """The changes of a task's recipe, as `--set` takes them."""
    return [f"{field}={as_yaml(value)}" for field, value in task.settings.items()]


def _cost(
    recipe: Recipe, tokens: int, forward: int, training: int, similarity: SimilarityCost | None
) -> Cost:
    """The cost of reading tokens in training.

    Args:
        recipe: of the training.
        tokens: in all.
        forward: FLOPs of a token's forward pass in the first step.
        training: FLOPs of a token in training, without similarity learning; the mean of all steps.
        similarity: what similarity learning costs; None: it is off.
    """
    flops, steps, share = float(tokens * training), recipe.train.steps, 0.0
    if similarity is not None:
        every, compares = similarity.every, recipe.similarity.compares
        compared = sum(compares(step / steps) for step in range(0, steps, every))
        # Its share is one of the first step's FLOPs, and those of later steps may be more.
        share = similarity.share * compared * every / steps * 3 * forward / training
    return Cost(
        steps=steps, tokens=tokens, flops=flops * (1 + share), similarity_flops=flops * share
    )


def _mean_length(texts: Texts, count: int, recipe: Recipe, store: TokenStore) -> float:
    """Mean tokens of a task's training texts, from some of them."""
    drawn = some(texts.split("train"), count, seed=0)
    encoded = encode(drawn, store.tokenizer, recipe.train.block, recipe.finetune.keep)
    return float(encoded.lengths.mean())


class Costs:
    """The costs of a sweep's trainings; those that differ in their seed alone cost the same.

    Args:
        definition: of the sweep.
        cells: of the definition.
        data_dir: of prepared tasks.

    Attributes:
        stores: corpora by name; one is there before a training on it is asked for.
    """

    def __init__(self, definition: Definition, cells: list[Cell], data_dir: Path):
        self.definition, self.cells, self.data_dir = definition, cells, data_dir
        self.stores: dict[str, TokenStore] = {}
        self._known: dict[str, tuple[Cost, tuple[Cost, ...]]] = {}

    def of(self, recipe: Recipe) -> tuple[Cost, tuple[Cost, ...]]:
        """The cost of a pre-training, and those of the fine-tunings that follow it."""
        train = recipe.train.model_copy(update={"seed": 0})
        key = repr(recipe.model_copy(update={"train": train}))
        if key not in self._known:
            store = self.stores[recipe.data.corpus]
            tunings = tuple(
                finetuning_cost(task, recipe, store, self.data_dir)
                for task in self.definition.finetune
            )
            self._known[key] = cost_of(recipe, store.manifest.vocab_size), tunings
        return self._known[key]

    def same_flops(self, cell: Cell, seed: int) -> str:
        """The steps with which a cell takes as many FLOPs as its baseline, as an override."""
        baseline = baseline_of(self.definition, cell, self.cells)
        if baseline is None:
            raise UserError(
                f"cell {cell.name} has no baseline whose FLOPs it could take", where="budget"
            )
        own, wanted = (
            self.of(recipe_of(self.definition, one, seed))[0] for one in (cell, baseline)
        )
        return f"train.steps={max(1, round(own.steps * wanted.flops / own.flops))}"
