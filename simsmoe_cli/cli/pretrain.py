"""`simsmoe pretrain`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.dry_run_ranks import planned_cluster
from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    DataDirOption,
    DeterministicOption,
    DeviceOption,
    DryRunOption,
    EventsJsonOption,
    ExpertsOption,
    GpuTflopsOption,
    LinkGbsOption,
    LogOption,
    ProfileOption,
    RecipeOption,
    ResumeOption,
    RouterOption,
    RunsDirOption,
    SetOption,
    SimilarityOption,
    WorldSizeOption,
    all_overrides,
    console,
    quieten_profiler,
)

if TYPE_CHECKING:
    from simsmoe_cli.data.store import Manifest
    from simsmoe_cli.recipe.schema import Recipe
    from simsmoe_cli.train.evaluate import Evaluation

NameOption = Annotated[
    str | None, typer.Option(help="Name of the run folder; made from the recipe if left out.")
]


FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN|FOLDER",
        help="Start from the best weights of this run, or from this Hugging Face model (a folder; "
        "extra hf; RUN/huggingface gets the result).",
        autocompletion=complete_runs,
    ),
]


def pretrain(
    recipe: RecipeOption = None,
    source: FromOption = None,
    settings: SetOption = None,
    router: RouterOption = None,
    similarity: SimilarityOption = None,
    experts: ExpertsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    dry_run: DryRunOption = False,
    world_size: WorldSizeOption = None,
    gpu_tflops: GpuTflopsOption = None,
    link_gbs: LinkGbsOption = None,
    profile: ProfileOption = 0,
    log: LogOption = None,
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: EventsJsonOption = False,
) -> None:
    """Train a language model from a recipe."""
    overrides = all_overrides(settings, router=router, similarity=similarity, experts=experts)
    if profile:
        quieten_profiler()
    if log:
        from simsmoe_cli.loggers.subscriber import require_loggers

        require_loggers(log)
    cluster = planned_cluster(world_size, gpu_tflops, link_gbs, dry_run=dry_run)
    if dry_run:
        from simsmoe_cli.cli.dry_run import show_pretraining

        which = (recipe, overrides, name, device, data_dir, source, runs_dir, resume, cluster)
        show_pretraining(*which, as_json=as_json)
        return
    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.cli.training import carry_out, ready_device, restarted
    from simsmoe_cli.cli.unwatched import unwatched
    from simsmoe_cli.train import session
    from simsmoe_cli.train.plan_pretraining import plan_training
    from simsmoe_cli.train.together import together

    with unwatched():
        screen = console(stderr=as_json)
        where = restarted(runs_dir, name, resume)
        plan = plan_training(
            recipe, overrides, where.runs_dir, where.name, where.resume, source, data_dir
        )
        on = ready_device(plan.recipe, device, deterministic=deterministic)
        with together(plan.recipe.parallel, on) as world:
            say = partial(screen.print, soft_wrap=True)
            with StageProgress(console(stderr=True)) as progress:
                store = session.open_corpus(plan, data_dir, say, world, progress)
            carry_out(
                "pretrain",
                plan,
                on,
                world,
                screen,
                doing=_doing(plan.recipe, chosen=bool(recipe or source or plan.resume_from)),
                vocab_size=store.manifest.vocab_size,
                train=lambda view: session.train(plan, store, on, world, **view.watch(profile)),
                summary=lambda result: _summary(result, store.manifest),
                longer=f"train.steps={2 * plan.recipe.train.steps}",
                data_dir=data_dir,
                log=log or [],
                as_json=as_json,
            )


def _doing(recipe: "Recipe", *, chosen: bool) -> str:
    """What is done, in words; a recipe that nobody chose is said to be the default."""
    default = " (the default; --recipe takes another)"
    return f"training {recipe.name}{'' if chosen else default}"


def _summary(result: "Evaluation", manifest: "Manifest") -> str:
    """The test score, and the number of tokens scored."""
    from simsmoe_cli.run.score import score_text

    score = score_text(result.on_split("test", manifest))
    total = manifest.splits["test"].tokens
    part = "" if result.tokens == total else f" of {total:,}"
    # The tokens that end documents are among them.
    unit = "token" if manifest.end_id is not None else manifest.unit
    return f"test {score}  ({result.tokens:,}{part} {unit}s)"
