"""`simsmoe pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.options import (
    ProfileOption,
    RouterOption,
    SetOption,
    SimilarityOption,
    all_overrides,
    console,
    quieten_profiler,
    shell,
)


def pretrain(
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Recipe: a name (`simsmoe list recipes`) or a file."),
    ] = None,
    settings: SetOption = None,
    router: RouterOption = None,
    similarity: SimilarityOption = None,
    experts: Annotated[
        str | None, typer.Option(help="Expert backend: auto, grouped, loop or fastmoe.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run folder; made from the recipe if left out.")
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
        bool,
        typer.Option("--dry-run", help="Show the resolved recipe, sizes and costs; train nothing."),
    ] = False,
    profile: ProfileOption = 0,
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events, or the dry run, as JSON.")
    ] = False,
) -> None:
    """Train a language model from a recipe."""
    overrides = all_overrides(settings, router, similarity)
    if experts is not None:
        overrides.append(f"moe.backend={experts}")
    if dry_run:
        from simsmoe_cli.cli.dry_run import show_dry_run
        from simsmoe_cli.files.names import check_name

        if name is not None:
            check_name(name)
        show_dry_run(recipe or "quickstart", overrides, data_dir, as_json=as_json)
        return

    if profile:
        quieten_profiler()
    from simsmoe_cli.cli.progress import TrainingView, unwatched
    from simsmoe_cli.model.precision import device_in_words
    from simsmoe_cli.model.size import memory_of, require_possible
    from simsmoe_cli.moe.layer import expert_backend
    from simsmoe_cli.train import session
    from simsmoe_cli.train.plan_pretraining import plan_training
    from simsmoe_cli.train.signals import Stopped

    with unwatched():
        screen = console(stderr=as_json)
        plan = plan_training(recipe, overrides, runs_dir, name, resume)
        torch_device = session.choose_device(device)
        expert_backend(plan.recipe).require(torch_device)
        if deterministic:
            session.be_deterministic()
        store = session.open_store(
            plan.recipe, data_dir, lambda text: screen.print(text, soft_wrap=True)
        )
        require_possible(plan.recipe, store.manifest.vocab_size, memory_of(torch_device))
        run = plan.run.path
        start = (
            f"{torch_device}, from {plan.resume_from.name}"
            if plan.resume_from
            else device_in_words(plan.recipe.train.precision, torch_device)
        )
        screen.print(f"training {plan.recipe.name} in {run} on {start}", soft_wrap=True)
        elsewhere = () if data_dir == Path("data") else ("--data-dir", data_dir)
        go_on = ("simsmoe", "pretrain", *elsewhere, "--resume", run)
        view = TrainingView(screen, plan.recipe.train.steps, run=plan.run, as_json=as_json)
        try:
            with view:
                result = session.train(
                    plan,
                    store,
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
        unit = store.manifest.unit
        score = (
            f"{result.bpc:.3f} BPC"
            if unit in ("byte", "character")
            else f"perplexity {result.perplexity:,.2f}"
        )
        total = store.manifest.splits["test"].tokens
        part = "" if result.tokens == total else f" of {total:,}"
        steps = f"train.steps={2 * plan.recipe.train.steps}"
        screen.print(f"\ntest {score}  ({result.tokens:,}{part} {unit}s)")
        screen.print(
            "\ntry next:",
            f"  {shell('simsmoe', 'eval', run, *elsewhere)}",
            f"  {shell(*go_on, '--set', steps)}",
            sep="\n",
            soft_wrap=True,
        )
