"""Options and output that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

import codecs
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.complete import (
    complete_experts,
    complete_loggers,
    complete_recipes,
    complete_routers,
    complete_runs,
    complete_settings,
    complete_similarity,
)
from simsmoe_cli.parallel.launch import launch

if TYPE_CHECKING:
    from rich.console import Console

    from simsmoe_cli.recipe.schema import Recipe

# The fields of a recipe that options of their own set.
FIELDS = {
    "router": "moe.router",
    "similarity": "similarity.preset",
    "experts": "moe.backend",
}
DATA_DIR, RUNS_DIR = Path("data"), Path("runs")

RunArgument = Annotated[
    Path,
    typer.Argument(help="Run folder, or its name under --runs-dir.", autocompletion=complete_runs),
]
CheckpointOption = Annotated[
    str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which weights.")
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="SIMSMOE_DATA", help="Folder of prepared corpora and tasks."),
]
RunsDirOption = Annotated[
    Path, typer.Option("--runs-dir", envvar="SIMSMOE_RUNS", help="Folder of runs.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
EventsJsonOption = Annotated[
    bool, typer.Option("--json", help="Print events, or the dry run, as JSON.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Recipe: a name (`simsmoe list recipes`) or a file. If left out: quickstart; with "
        "--resume, or --from a run, that of the run; with --from a model's folder "
        "continue-huggingface.",
        autocompletion=complete_recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="A.B=C",
        help="Change a setting; repeatable.",
        autocompletion=complete_settings,
    ),
]
RouterOption = Annotated[
    str | None,
    typer.Option(help="Same as --set moe.router=NAME.", autocompletion=complete_routers),
]
SimilarityOption = Annotated[
    str | None,
    typer.Option(
        help="none, published, paper or calibrated: similarity learning's preset.",
        autocompletion=complete_similarity,
    ),
]
ExpertsOption = Annotated[
    str | None,
    typer.Option(
        help="Expert backend: auto, grouped, loop or fastmoe.", autocompletion=complete_experts
    ),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="NAME",
        help="Log to wandb, tensorboard, trackio or mlflow too (an extra each); repeatable.",
        autocompletion=complete_loggers,
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="auto|RUN|PATH",
        help="Go on from the newest checkpoint (auto), or from a run or checkpoint folder.",
        autocompletion=complete_runs,
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Use only algorithms whose results repeat bit for bit."),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the resolved recipe, sizes and costs; train nothing."),
]
WorldSizeOption = Annotated[
    int | None,
    typer.Option(
        "--world-size",
        min=1,
        max=1_000_000,
        metavar="W",
        help="With --dry-run: what each of W processes holds, and computes and sends in a step. "
        "FSDP gathers the weights of each sub-layer twice for each micro-batch, forward and "
        "backward, and sums its gradients once; each time a process sends (s-1)/s of their fp32 "
        "bytes, where s = parallel.shard. Experts take s = shard/expert, of 1/expert of them. The "
        "all-to-all sends tokens x top_k x width x bytes of a number x (e-1)/e four times in each "
        "layer of experts, where e = parallel.expert.",
    ),
]
GpuTflopsOption = Annotated[
    float | None,
    typer.Option(
        "--gpu-tflops",
        metavar="N",
        help="With --world-size: 1e12 floating-point operations a second that each process "
        "sustains. Computing takes FLOPs / N.",
    ),
]
LinkGbsOption = Annotated[
    float | None,
    typer.Option(
        "--link-gbs",
        metavar="N",
        help="With --world-size: 1e9 bytes a second that each process sends. A step takes the "
        "longer of computing and FSDP, which overlap, plus the all-to-all: max(FLOPs / GPU, FSDP "
        "bytes / N) + all-to-all bytes / N.",
    ),
]
ProfileOption = Annotated[
    int,
    typer.Option(
        "--profile",
        min=0,
        max=100_000,
        metavar="N",
        show_default=False,
        help="Record N steps after the first three with torch's profiler: a trace and a table of "
        "where time and memory went, in the run's folder profile.",
    ),
]

# The distinct bytes of enwik8, on which published work trains.
ASSUMED_VOCABULARY = 205


def all_overrides(settings: list[str] | None, **named: str | None) -> list[str]:
    """The changes of a recipe by --set and by options such as --router, in the form of
    `load_recipe`.

    Args:
        settings: of --set.
        named: of the other options, by name; None was not given.
    """
    given = {name: value for name, value in named.items() if value is not None}
    return [*(settings or []), *(f"{FIELDS[name]}={value}" for name, value in given.items())]


def quieten_profiler() -> None:
    """Hide the log lines of torch's profiler; to be called before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def print_json(value: Any) -> None:
    """One JSON document on stdout, with escapes where its encoding lacks characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    complete = codecs.lookup(encoding).name.startswith("utf")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not complete))


def in_bytes(count: int) -> str:
    """A number of bytes in its largest unit, such as "12 MiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def console(*, stderr: bool = False) -> Console:
    """A rich console that prints text unchanged: no markup, emoji or highlighting.

    Control characters are shown as escapes. Piped output is as wide as its lines need, so that
    other programs see whole cells.
    """
    from rich.console import Console
    from rich.text import Text

    from simsmoe_cli.errors import visible

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    # Of several processes that torchrun started, the first speaks for all.
    plain = Plain(
        stderr=stderr, markup=False, emoji=False, highlight=False, quiet=not launch().first
    )
    if not plain.is_terminal:
        plain.width = 1000
    return plain


def shell(*words: str | Path) -> str:
    """A command line that a shell splits into the given words."""
    return shlex.join(str(word) for word in words)


def expected_vocabulary(recipe: Recipe) -> tuple[int, str]:
    """Vocabulary size of a recipe whose corpus is not prepared yet, and where it comes from."""
    from simsmoe_cli import registry

    corpus, tokenizer = recipe.data.corpus, recipe.data.tokenizer
    if corpus in registry.CORPORA:
        facts = registry.load("corpora", corpus)
        if facts.vocab_size is not None and facts.tokenizer == tokenizer:
            return facts.vocab_size, f"all of {corpus} with tokenizer {tokenizer}"
    return ASSUMED_VOCABULARY, f"assumed, as '{corpus}' is not prepared"
