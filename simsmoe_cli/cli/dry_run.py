"""`--dry-run` of pretrain and finetune: shows the recipe and its costs, and trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from simsmoe_cli.cli import dry_run_ranks
from simsmoe_cli.cli.options import console, expected_vocabulary, in_bytes, print_json
from simsmoe_cli.errors import UserError

if TYPE_CHECKING:
    from simsmoe_cli.model.size import ModelSize
    from simsmoe_cli.recipe.schema import Recipe
    from simsmoe_cli.similarity.cost import Cost
    from simsmoe_cli.train.plan_finetuning import FinetunePlan
    from simsmoe_cli.train.pretrained_folder import PretrainedFolder


def show_pretraining(
    recipe_name: str | None,
    overrides: Sequence[str],
    name: str | None,
    device: str,
    data_dir: Path,
    source: Path | None,
    runs_dir: Path,
    resume: str | None = None,
    cluster: dry_run_ranks.Cluster | None = None,
    *,
    as_json: bool,
) -> None:
    """Print the resolved recipe, sizes, costs and the assumptions behind them; train nothing.

    Args:
        source: a run, or the folder of a Hugging Face model, of which only the parameters are
            counted.
        runs_dir: where run folders lie.
        resume: the run to go on with, whose whole training is shown.
        cluster: the processes to plan for.

    Raises:
        UserError: training would refuse the recipe before it reads any text.
    """
    from simsmoe_cli.files.names import check_name
    from simsmoe_cli.model.size import measure
    from simsmoe_cli.train.device import choose_device
    from simsmoe_cli.train.plan_pretraining import (
        plan_training,
        require_pretraining,
        starting_point,
    )
    from simsmoe_cli.train.pretrained_folder import PretrainedFolder

    if name is not None:
        check_name(name)
    choose_device(device)
    if resume is None:
        recipe, pretrained = starting_point(recipe_name, overrides, source, data_dir, runs_dir)
    else:
        processes = cluster.size if cluster else None
        plan = plan_training(
            recipe_name, overrides, runs_dir, name, resume, source, data_dir, processes
        )
        recipe, pretrained = plan.recipe, plan.pretrained
        if recipe.huggingface.used and pretrained is None:
            raise UserError(
                "the costs of a run from a Hugging Face folder are shown when it begins",
                where="--resume",
                hint="Leave --dry-run out, or give the folder: --from FOLDER --dry-run.",
            )
    require_pretraining(recipe)
    if isinstance(pretrained, PretrainedFolder):
        if cluster is not None:
            raise _no_plan_of_a_folder()
        _show_pretrained(recipe, pretrained, as_json=as_json)
        return
    vocab_size, vocab_basis, train_tokens = _vocabulary(recipe, data_dir)
    ranks = None if cluster is None else cluster.plan(recipe, vocab_size)
    size = measure(recipe, vocab_size)
    tokens = recipe.train.steps * recipe.train.batch * recipe.train.block
    epochs = tokens / train_tokens if train_tokens else None
    if as_json:
        costs = _as_json(size, tokens, epochs)
        about = {"vocabulary": vocab_size, "vocabulary_basis": vocab_basis}
        each = {} if ranks is None else {"each_process": ranks}
        print_json({"recipe": recipe.model_dump(), **about, **costs, **each})
        return
    _print(recipe, size, tokens, epochs, vocab_size, vocab_basis)
    if ranks is not None:
        typer.echo("\nEach process:\n")
        _print_table(dry_run_ranks.rows(ranks), ranks["basis"].values())


def _no_plan_of_a_folder() -> UserError:
    return UserError(
        "plans the model of a recipe, not of a folder",
        where="--world-size",
        hint="Leave out --world-size or --from.",
    )


def _show_pretrained(recipe: Recipe, pretrained: PretrainedFolder, *, as_json: bool) -> None:
    """Print the recipe, the parameters of a Hugging Face model, and the memory for them."""
    from simsmoe_cli.recipe.load import dump_recipe

    parameters = pretrained.files.numbers
    memory = pretrained.training_bytes
    tokens = recipe.train.steps * recipe.train.batch * recipe.train.block
    if as_json:
        facts = {"parameters": parameters, "tokens_to_train": tokens}
        print_json({"recipe": recipe.model_dump(), **facts, "memory_bytes": {"total": memory}})
        return
    typer.echo(dump_recipe(recipe))
    console().print(
        f"parameters       {parameters:,}",
        f"tokens to train  {tokens:,}: {recipe.train.steps:,} steps",
        f"memory           {in_bytes(memory)} for weights, gradients and two moments in fp32, and "
        "what autograd keeps of a micro-batch",
        sep="\n",
        soft_wrap=True,
    )


def _vocabulary(recipe: Recipe, data_dir: Path) -> tuple[int, str, int | None]:
    """The size of the vocabulary, the source of that number, and the tokens of the train split
    (None if the corpus is not prepared)."""
    from simsmoe_cli.data.store import is_store
    from simsmoe_cli.train.session import open_store

    corpus = recipe.data.corpus
    if not is_store(data_dir / corpus) and not is_store(Path(corpus)):
        return *expected_vocabulary(recipe), None
    store = open_store(recipe, data_dir)
    tokens = store.manifest.splits["train"].tokens
    return store.manifest.vocab_size, f"prepared in {store.path}", tokens


def _memory(size: ModelSize) -> dict[str, int]:
    """Bytes that training holds in memory, by purpose."""
    return {
        "weights": size.weight_bytes,
        "gradients": size.gradient_bytes,
        "optimizer": size.optimizer_bytes,
        "carried memory": size.carried_bytes,
        "activations": size.activation_bytes,
    }


def _as_json(size: ModelSize, tokens: int, epochs: float | None) -> dict[str, Any]:
    from simsmoe_cli.model.size import BASIS

    return {
        "parameters": size.parameters,
        "active_parameters": size.active_parameters,
        "head_parameters": size.head_parameters,
        "flops_per_token_forward": size.forward_flops_per_token,
        "flops_per_token_training": size.training_flops_per_token,
        "similarity": None if size.similarity is None else _similarity(size.similarity),
        "tokens_to_train": tokens,
        "epochs": epochs,
        "training_flops": tokens * size.training_flops_per_token,
        "memory_bytes": {**_memory(size), "total": size.training_bytes},
        "basis": BASIS,
    }


def _print(
    recipe: Recipe,
    size: ModelSize,
    tokens: int,
    epochs: float | None,
    vocab_size: int,
    vocab_basis: str,
) -> None:
    from simsmoe_cli.model.size import BASIS
    from simsmoe_cli.recipe.load import dump_recipe

    typer.echo(dump_recipe(recipe), nl=False)
    often = "" if epochs is None else f", {epochs:.2f} times the train split"
    moe, router = recipe.moe, recipe.of_router(recipe.moe.router)
    first, mean = router.first_k(moe), router.mean_k(moe, recipe.train.steps)
    at_first, on_average = (
        ("", "")
        if mean == first
        else (f", with {first} experts per token", f", with {mean:.3g} on average")
    )
    flops = (
        f"{size.forward_flops_per_token:,}",
        f"forward{at_first}; {size.training_flops_per_token:,} to train{on_average}",
    )
    parts = ", ".join(f"{name} {in_bytes(count)}" for name, count in _memory(size).items())
    rows = (
        ("vocabulary", f"{vocab_size:,}", vocab_basis),
        ("parameters", f"{size.parameters:,}", _heads(size.head_parameters)),
        ("active per token", f"{size.active_parameters:,}", ""),
        ("FLOPs per token", *flops),
        *([] if size.similarity is None else [_similarity_row(recipe, size.similarity)]),
        ("tokens to train", f"{tokens:,}", f"{recipe.train.steps:,} steps{often}"),
        ("training FLOPs", f"{tokens * size.training_flops_per_token:.3g}", ""),
        ("memory", in_bytes(size.training_bytes), parts),
    )
    typer.echo()
    _print_table(rows, BASIS.values())


def _print_table(rows: Iterable[tuple[str, str, str]], notes: Iterable[str]) -> None:
    """Rows of name, number and explanation, and the assumptions below them."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    console().print(table)
    typer.echo()
    for line in notes:
        typer.echo(line)


def _similarity(cost: Cost) -> dict[str, Any]:
    return {"compare_every": cost.every, "similarity_flops": cost.share}


def _similarity_row(recipe: Recipe, cost: Cost) -> tuple[str, str, str]:
    from simsmoe_cli.cli.progress import cost_in_words

    budget = recipe.similarity.budget
    limit = "no budget" if budget is None else f"budget {budget:.1%}"
    return (
        "similarity learning",
        f"+{cost.share:.1%}",
        f"{cost_in_words(_similarity(cost))}; {limit}",
    )


def show_finetuning(
    plan: FinetunePlan, device: str, cluster: dry_run_ranks.Cluster | None = None, *, as_json: bool
) -> None:
    """Print the resolved recipe, the task and the size of the classifier; train nothing.

    Args:
        cluster: the processes to plan for, as if every text were as long as the longest, and the
            output layer that of the language model.
    """
    from simsmoe_cli.recipe.load import dump_recipe
    from simsmoe_cli.train.device import choose_device

    choose_device(device)
    train, tuning = plan.recipe.train, plan.recipe.finetune
    splits = {name: split.examples for name, split in plan.task.manifest.splits.items()}
    facts = {
        "pretrained": plan.origin,
        "task": plan.task.name,
        "labels": len(plan.task.labels),
        "examples": splits,
        "reported": plan.task.reported,
        "steps_per_epoch": train.steps // tuning.epochs,
        "steps": train.steps,
        "parameters": _classifier_parameters(plan),
        "longest_text": train.block,
    }
    ranks = None
    if cluster is not None:
        if plan.recipe.huggingface.used:
            raise _no_plan_of_a_folder()
        ranks = cluster.plan(plan.recipe, plan.vocabulary.size)
    if as_json:
        each = {} if ranks is None else {"each_process": ranks}
        print_json({"recipe": plan.recipe.model_dump(), **facts, **each})
        return
    typer.echo(dump_recipe(plan.recipe))
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.items())
    console().print(
        f"from        {plan.origin['run']}, step {plan.origin['step']}",
        f"task        {plan.task.name}: {len(plan.task.labels)} labels, {counts}; reported on "
        f"{plan.task.reported}",
        f"steps       {train.steps:,}: {tuning.epochs} epochs of {facts['steps_per_epoch']:,}",
        f"parameters  {facts['parameters']:,}",
        f"texts       at most {train.block:,} tokens; the {tuning.keep} of longer ones is kept",
        sep="\n",
        soft_wrap=True,
    )
    if ranks is not None:
        typer.echo("\nEach process, with texts of that length and the language model's output:\n")
        _print_table(dry_run_ranks.rows(ranks), ranks["basis"].values())


def _classifier_parameters(plan: FinetunePlan) -> int:
    """Parameters of the classifier, heads of similarity learning left out."""
    import torch

    from simsmoe_cli.model.interface import classifier

    with torch.device("meta"):
        model = classifier(plan.recipe, plan.vocabulary.size, len(plan.task.labels))
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "similarity." not in name
    )


def _heads(parameters: int) -> str:
    return f"and {parameters:,} in similarity heads, in training alone" if parameters else ""
