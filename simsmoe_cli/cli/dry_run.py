"""`simsmoe pretrain --dry-run`: what a recipe would train, and what that would cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from simsmoe_cli.cli.options import console, expected_vocabulary, print_json


def show_dry_run(
    recipe_name: str, overrides: Sequence[str], data_dir: Path, *, as_json: bool
) -> None:
    """Print the resolved recipe, sizes, costs, and what they are based on; train nothing."""
    from rich.table import Table

    from simsmoe_cli.data.store import is_store
    from simsmoe_cli.model.size import BASIS, measure
    from simsmoe_cli.recipe.load import dump_recipe, load_recipe
    from simsmoe_cli.train.plan_pretraining import require_pretraining
    from simsmoe_cli.train.session import open_store

    recipe = load_recipe(recipe_name, overrides)
    require_pretraining(recipe)
    corpus, train_tokens = recipe.data.corpus, None
    if is_store(data_dir / corpus) or is_store(Path(corpus)):
        store = open_store(recipe, data_dir)
        vocab_size, vocab_basis = store.manifest.vocab_size, f"prepared in {store.path}"
        train_tokens = store.manifest.splits["train"].tokens
    else:
        vocab_size, vocab_basis = expected_vocabulary(recipe)
    size = measure(recipe, vocab_size)
    parts = {
        "weights": size.weight_bytes,
        "gradients": size.gradient_bytes,
        "optimizer": size.optimizer_bytes,
        "carried memory": size.carried_bytes,
        "activations": size.activation_bytes,
    }
    train = recipe.train
    tokens = train.steps * train.batch * train.block
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(),
                "vocabulary": vocab_size,
                "vocabulary_basis": vocab_basis,
                "parameters": size.parameters,
                "active_parameters": size.active_parameters,
                "head_parameters": size.head_parameters,
                "flops_per_token_forward": size.forward_flops_per_token,
                "flops_per_token_training": size.training_flops_per_token,
                "tokens_to_train": tokens,
                "epochs": tokens / train_tokens if train_tokens else None,
                "training_flops": tokens * size.training_flops_per_token,
                "memory_bytes": {**parts, "total": size.training_bytes},
                "basis": BASIS,
            }
        )
        return
    typer.echo(dump_recipe(recipe), nl=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    epochs = f", {tokens / train_tokens:.2f} times the train split" if train_tokens else ""
    for row in (
        ("vocabulary", f"{vocab_size:,}", vocab_basis),
        ("parameters", f"{size.parameters:,}", _heads(size.head_parameters)),
        ("active per token", f"{size.active_parameters:,}", ""),
        (
            "FLOPs per token",
            f"{size.forward_flops_per_token:,}",
            f"forward; {size.training_flops_per_token:,} to train",
        ),
        ("tokens to train", f"{tokens:,}", f"{train.steps:,} steps{epochs}"),
        ("training FLOPs", f"{tokens * size.training_flops_per_token:.3g}", ""),
        (
            "memory",
            _bytes(size.training_bytes),
            ", ".join(f"{name} {_bytes(count)}" for name, count in parts.items()),
        ),
    ):
        table.add_row(*row)
    typer.echo()
    console().print(table)
    typer.echo()
    for line in BASIS.values():
        typer.echo(line)


def _heads(parameters: int) -> str:
    return f"and {parameters:,} in similarity heads, in training alone" if parameters else ""


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
