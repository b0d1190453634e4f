"""`simsmoe pretrain --dry-run`: the resolved recipe and what training it would take."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from simsmoe_cli.cli.common import expected_vocabulary, print_json


def show_dry_run(
    recipe_name: str, overrides: Sequence[str], data_dir: Path, *, as_json: bool
) -> None:
    """Print the resolved recipe, sizes, costs and what they are based on; train nothing."""
    from simsmoe_cli.data.store import find_store, is_store
    from simsmoe_cli.model.size import BASIS, measure
    from simsmoe_cli.recipe_loading import dump_recipe, load_recipe
    from simsmoe_cli.train.session import open_store

    recipe = load_recipe(recipe_name, overrides)
    corpus = recipe.data.corpus
    if is_store(data_dir / corpus) or is_store(Path(corpus)):
        vocab_size = open_store(recipe, data_dir).manifest.vocab_size
        origin = f"the prepared corpus in {find_store(corpus, data_dir)}"
    else:
        vocab_size, origin = expected_vocabulary(recipe)
    size = measure(recipe, vocab_size)
    train = recipe.train
    tokens = train.steps * train.batch * train.block
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(),
                "vocab_size": vocab_size,
                **asdict(size),
                "training_bytes": size.training_bytes,
                "tokens": tokens,
                "flops_total": tokens * size.training_flops_per_token,
                "basis": {"vocab_size": origin, **BASIS},
            }
        )
        return

    typer.echo(dump_recipe(recipe))
    heads = f"and {size.head_parameters:,} in similarity heads" if size.head_parameters else ""
    for label, value, note in (
        ("vocabulary", f"{vocab_size:,}", origin),
        ("parameters", f"{size.parameters:,}", heads),
        ("active per token", f"{size.active_parameters:,}", ""),
        ("FLOPs per token", _si(size.forward_flops_per_token), "forward"),
        ("", _si(size.training_flops_per_token), "training"),
        ("memory to train", _gib(size.training_bytes), "of which"),
        ("", _gib(size.weight_bytes), "weights"),
        ("", _gib(size.gradient_bytes), "gradients"),
        ("", _gib(size.optimizer_bytes), "optimizer"),
        ("", _gib(size.carried_bytes), "carried memory"),
        ("", _gib(size.activation_bytes), "activations"),
        (
            "tokens to train",
            f"{tokens:,}",
            f"{train.steps:,} steps of {train.batch} x {train.block}",
        ),
        ("FLOPs in all", _si(tokens * size.training_flops_per_token), ""),
    ):
        typer.echo(f"{label:<18}{value:>16}  {note}".rstrip())
    typer.echo("\nBasis of the estimates")
    for text in BASIS.values():
        typer.echo(textwrap.fill(text, 98, initial_indent="- ", subsequent_indent="  "))


def _si(number: float) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {prefix}".rstrip()
        number /= 1000
    return f"{number:.3g} E"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
