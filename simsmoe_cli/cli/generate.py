"""`simsmoe generate`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    CheckpointOption,
    DataDirOption,
    DeviceOption,
    RunArgument,
    RunsDirOption,
    console,
)
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.files.untrusted import Unreadable, read_bytes
from simsmoe_cli.run.layer_labels import find_layer, recipe_labels

if TYPE_CHECKING:
    from rich.console import Console

    from simsmoe_cli.generation.text import Piece
    from simsmoe_cli.model.interface import TextModel
    from simsmoe_cli.recipe.schema import Recipe

MOST_BYTES = 16_000_000  # of a prompt


PromptOption = Annotated[str | None, typer.Option(help="Text to continue.")]
PromptFileOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="File with the text, - for stdin.")
]
TokensOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=100_000_000,
        help="How many tokens to add; fewer where the model ends a document.",
    ),
]
TemperatureOption = Annotated[
    float, typer.Option(help="0: the most likely token; 1: the model's own distribution.")
]
TopPOption = Annotated[
    float, typer.Option(help="Draw from the fewest tokens whose probabilities add up to this.")
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**63 - 1, help="Seed: the same one gives the same text.")
]
ShowExpertsOption = Annotated[
    bool,
    typer.Option(
        "--show-experts",
        help="Colour each token by its expert; piped: one token|expert a line.",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        help="Layer whose experts are shown, by its number in the model; the last if left out."
    ),
]


def generate(
    run: RunArgument,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    tokens: TokensOption = 200,
    temperature: TemperatureOption = 0.8,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    which: CheckpointOption = "best",
    show_experts: ShowExpertsOption = False,
    layer: LayerOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Continue a prompt with a trained model; the text appears as it is generated."""
    text, where = _prompt(prompt, prompt_file)
    if layer is not None and not show_experts:
        raise UserError("says whose experts to show", where="--layer", hint="Add --show-experts.")

    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.generation.sampling import Reader, Sampling, generating
    from simsmoe_cli.generation.text import complete, encode_prompt
    from simsmoe_cli.run.find import find_run
    from simsmoe_cli.run.opened import open_language_model
    from simsmoe_cli.train.device import choose_device, clear_memory_errors

    sampling = Sampling(temperature, top_p, seed)
    opened = open_language_model(find_run(run, runs_dir), which, data_dir)
    tokenizer = opened.tokenizer
    ids, unknown = encode_prompt(tokenizer, text, where)
    on = choose_device(device)
    with clear_memory_errors(on, "Use --device cpu, or a machine with more memory."):
        with StageProgress(console(stderr=True), in_bytes=False) as progress:
            progress("opening", 0, None)
            model = opened.language_model(on, generating)
        shown = _layer(layer, opened.recipe, model) if show_experts else None
        if unknown:
            words = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
            console(stderr=True).print(f"read as <unk>: {words}", style="dim")
        pieces = complete(Reader(model, opened.context()), tokenizer, ids, tokens, sampling)
        try:
            _show(pieces, shown)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or console().is_terminal:
                typer.echo(err=True)  # what comes next begins on a line of its own
            raise


def _prompt(prompt: str | None, file: str | None) -> tuple[str, str]:
    """The text to continue, and the flag that gave it."""
    if (prompt is None) == (file is None):
        what = "no text to continue" if prompt is None else "a prompt is given twice"
        raise UserError(what, where="--prompt", hint="Give --prompt TEXT or --prompt-file FILE.")
    if prompt is not None:
        return prompt, "--prompt"
    assert file is not None
    where = printable(file, 200)
    try:
        if file == "-":
            content = typer.get_binary_stream("stdin").read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise Unreadable(f"has more than {MOST_BYTES:,} bytes")
        else:
            content = read_bytes(Path(file), MOST_BYTES)
        return content.decode(), "--prompt-file"
    except FileNotFoundError:
        hint = "Check the path."
        raise DataError("no such file", where=where, hint=hint) from None
    except Unreadable as error:
        raise DataError(f"the prompt {error}", where=where) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte 0x{error.object[error.start]:02x} at offset {error.start} is not UTF-8",
            where=where,
        ) from None


@dataclass(frozen=True)
class _Layer:
    """A layer whose experts are shown: its index among those with experts, its label, and N."""

    index: int
    label: str
    experts: int


def _layer(asked: str | None, recipe: "Recipe", model: "TextModel") -> _Layer:
    """The layer that is shown."""
    labels = recipe_labels(recipe.model_dump())
    if not labels:
        raise UserError("this model has no experts", where="--show-experts", hint="Leave it out.")
    index = len(labels) - 1 if asked is None else find_layer(asked, labels, "--layer")
    return _Layer(index, labels[index], model.expert_layers[index][1])


def _show(pieces: "Iterable[Piece]", layer: _Layer | None) -> None:
    """Write the pieces as they come, with the experts of a layer if one is given."""
    out = console()
    if layer is None:
        _write(out, pieces)
    elif out.is_terminal and out.color_system and not out.no_color:
        _paint(out, pieces, layer)
    else:
        for piece in pieces:
            if piece.token:
                expert = piece.experts[layer.index]
                typer.echo(f"{piece.token}|{'-' if expert is None else expert}")


def _write(out: "Console", pieces: "Iterable[Piece]") -> None:
    """Write the text as it is, but on a terminal without control characters."""
    for piece in pieces:
        typer.echo(_harmless(piece.text) if out.is_terminal else piece.text, nl=False)
    typer.echo()


def _paint(out: "Console", pieces: "Iterable[Piece]", layer: _Layer) -> None:
    """Write the text on the colours of its experts, after a legend."""
    from simsmoe_cli.cli.expert_colours import Painter

    painter = Painter(layer.experts)
    out.print(f"experts of layer {layer.label}: ", painter.legend(), sep="", soft_wrap=True)
    for piece in pieces:
        expert = piece.experts[layer.index] if piece.experts else None
        out.print(painter.paint(_harmless(piece.text), expert), end="", soft_wrap=True)
    out.print()


def _harmless(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
