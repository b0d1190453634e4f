"""`simsmoe finetune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import (
    ProfileOption,
    SetOption,
    SimilarityOption,
    all_overrides,
    console,
    print_json,
    quieten_profiler,
    shell,
)

if TYPE_CHECKING:
    from simsmoe_cli.train.plan_finetuning import FinetunePlan


def finetune(
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Pre-trained run: its name or its folder."),
    ] = None,
    which: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which weights of it.")
    ] = "best",
    task: Annotated[
        str | None, typer.Option(help="Prepared task: its name under --data-dir, or its folder.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Recipe: a name or a file; finetune-TASK, or finetune-sst2's settings, "
            "if left out.",
        ),
    ] = None,
    settings: SetOption = None,
    similarity: SimilarityOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run folder; RUN-TASK if left out.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|RUN|PATH",
            help="Go on from the newest checkpoint (auto), or from a run or checkpoint folder.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only algorithms that repeat bit for bit.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved recipe and sizes; train nothing.")
    ] = False,
    profile: ProfileOption = 0,
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora and tasks lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events, or the dry run, as JSON.")
    ] = False,
) -> None:
    """Fine-tune a pre-trained run on a classification task."""
    if profile:
        quieten_profiler()
    from simsmoe_cli.cli.progress import TrainingView, unwatched
    from simsmoe_cli.model.precision import device_in_words
    from simsmoe_cli.model.size import memory_of, require_possible
    from simsmoe_cli.moe.layer import expert_backend
    from simsmoe_cli.train import session
    from simsmoe_cli.train.plan_finetuning import plan_finetuning
    from simsmoe_cli.train.signals import Stopped

    screen = console(stderr=as_json)
    plan = plan_finetuning(
        source,
        which,
        task,
        recipe,
        all_overrides(settings, None, similarity),
        data_dir=data_dir,
        runs_dir=runs_dir,
        name=name,
        resume=resume,
    )
    if dry_run:
        _show_dry_run(plan, as_json=as_json)
        return
    with unwatched():
        torch_device = session.choose_device(device)
        expert_backend(plan.recipe).require(torch_device)
        if deterministic:
            session.be_deterministic()
        require_possible(plan.recipe, plan.vocabulary.size, memory_of(torch_device))
        run = plan.run.path
        start = (
            f"{torch_device}, from {plan.resume_from.name}"
            if plan.resume_from
            else device_in_words(plan.recipe.train.precision, torch_device)
        )
        screen.print(
            f"fine-tuning {plan.origin['run']} (step {plan.origin['step']}) on {plan.task.name} in "
            f"{run} on {start}",
            soft_wrap=True,
        )
        elsewhere = () if data_dir == Path("data") else ("--data-dir", data_dir)
        go_on = ("simsmoe", "finetune", *elsewhere, "--resume", run)
        view = TrainingView(screen, plan.recipe.train.steps, run=plan.run, as_json=as_json)
        try:
            with view:
                result = session.finetune(
                    plan,
                    torch_device,
                    subscriber=view.on_event,
                    on_step=view.on_step,
                    profile=profile,
                )
        except Stopped as stop:
            screen.print(
                f"stopped at step {stop.step} and saved; go on with: {shell(*go_on)}",
                soft_wrap=True,
            )
            raise typer.Exit(stop.code) from None
        if as_json:
            return
        screen.print(
            f"\n{plan.task.reported} accuracy {result.accuracy:.2%}, macro-F1 "
            f"{result.macro_f1:.3f}  ({len(result.label_E):,} examples, best epoch by validation)"
        )
        more = f"finetune.epochs={2 * plan.recipe.finetune.epochs}"
        screen.print(
            "\ntry next:",
            f"  {shell('simsmoe', 'eval', run, *elsewhere)}",
            f"  {shell(*go_on, '--set', more)}",
            sep="\n",
            soft_wrap=True,
        )


def _show_dry_run(plan: "FinetunePlan", *, as_json: bool) -> None:
    """Print the resolved recipe, the task and the size of the classifier; train nothing."""
    import torch

    from simsmoe_cli.model.classifier import Classifier
    from simsmoe_cli.recipe.load import dump_recipe

    with torch.device("meta"):
        model = Classifier(plan.recipe, plan.vocabulary.size, len(plan.task.labels))
    parameters = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".similarity." not in name
    )
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
        "parameters": parameters,
        "longest_text": train.block,
    }
    if as_json:
        print_json({"recipe": plan.recipe.model_dump(), **facts})
        return
    typer.echo(dump_recipe(plan.recipe))
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.items())
    console().print(
        f"from        {plan.origin['run']}, step {plan.origin['step']}",
        f"task        {plan.task.name}: {len(plan.task.labels)} labels, {counts}; reported on "
        f"{plan.task.reported}",
        f"steps       {train.steps:,}: {tuning.epochs} epochs of {facts['steps_per_epoch']:,}",
        f"parameters  {parameters:,}",
        f"texts       at most {train.block:,} tokens; the {tuning.keep} of longer ones is kept",
        sep="\n",
        soft_wrap=True,
    )
