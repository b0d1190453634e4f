"""`simsmoe upcycle`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.options import RUNS_DIR, RunsDirOption, console

DenseArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DENSE",
        help="A run whose pattern has f and no g, or the folder of a Hugging Face model: llama, "
        "mistral, qwen2 or qwen3.",
        autocompletion=complete_runs,
    ),
]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")]
ExpertsOption = Annotated[int, typer.Option("--experts", metavar="N", help="Experts a layer.")]
TopKOption = Annotated[int, typer.Option("--top-k", metavar="K", help="Experts a token.")]
DropRatioOption = Annotated[
    float | None,
    typer.Option(
        "--drop-ratio",
        metavar="R",
        help="Drop-Upcycling: share of each expert's hidden units that is drawn anew, 0 to 1.",
    ),
]
NoiseOption = Annotated[
    float | None,
    typer.Option(
        "--noise",
        metavar="S",
        help="Noise added to each expert, in standard deviations of each matrix.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]


def upcycle(
    dense: DenseArgument,
    out: OutArgument,
    experts: ExpertsOption = 8,
    top_k: TopKOption = 2,
    drop_ratio: DropRatioOption = None,
    noise: NoiseOption = None,
    seed: SeedOption = 0,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Turn a dense model into a mixture of experts.

    A run becomes a run, in which each f of the pattern is a g; a Hugging Face
    model becomes one of Mixtral, Qwen2-MoE or Qwen3-MoE.

    Every expert is a copy of the dense feed-forward block and the router is
    new, so the model computes what the dense one does.

    Exact copies have a CKA of 1, and there similarity learning has no gradient:
    they become different only as the router sends them different tokens.
    --drop-ratio (0.5 is the published choice) or --noise makes them different
    at once; then the model needs training to be as good as the dense one.
    """
    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.run.find import find_run, means_run
    from simsmoe_cli.upcycle.experts import Settings
    from simsmoe_cli.upcycle.write import upcycle as write

    settings = Settings(experts, top_k, drop_ratio, noise, seed)
    with StageProgress(console(stderr=True)) as progress:
        if means_run(dense, runs_dir):
            from simsmoe_cli.upcycle.run import upcycle_run

            done = upcycle_run(find_run(dense, runs_dir), out, settings, progress=progress)
            report, longer = "", f"simsmoe pretrain --from {out} --similarity calibrated"
        else:
            done = write(dense, out, settings, progress=progress)
            report = " --text FILE"
            longer = f"simsmoe pretrain --from {out}, or simsmoe.attach (docs/api.md)"
    console().print(
        f"{out}: {done.architecture}, {done.parameters:,} parameters, {done.active:,} active, "
        f"{done.bytes / 1e9:.2f} GB. Next: simsmoe collapse-report {out}{report}; to train it: "
        f"{longer}",
        soft_wrap=True,
    )
