"""`simsmoe finetune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.complete import complete_recipes, complete_runs, complete_tasks
from simsmoe_cli.cli.dry_run_ranks import planned_cluster
from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    CheckpointOption,
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
    from simsmoe_cli.train.classify import TaskEvaluation
    from simsmoe_cli.train.plan_finetuning import FinetunePlan

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN|FOLDER",
        help="Pre-trained run, or folder of a Hugging Face model (extra hf).",
        autocompletion=complete_runs,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Prepared task: its name under --data-dir, or its folder.",
        autocompletion=complete_tasks,
    ),
]
FinetuningRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Recipe: a name or a file; if left out, finetune-TASK or the settings of "
        "finetune-sst2, and for a Hugging Face model those of finetune-huggingface.",
        autocompletion=complete_recipes,
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the run folder; RUN-TASK if left out.")
]


def finetune(
    source: FromOption = None,
    which: CheckpointOption = "best",
    task: TaskOption = None,
    recipe: FinetuningRecipeOption = None,
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
    """Fine-tune a pre-trained run, or a Hugging Face model, on a classification task."""
    if profile:
        quieten_profiler()
    from simsmoe_cli.cli.training import carry_out, ready_device, restarted
    from simsmoe_cli.cli.unwatched import unwatched
    from simsmoe_cli.train import session
    from simsmoe_cli.train.plan_finetuning import plan_finetuning
    from simsmoe_cli.train.together import together

    if log:
        from simsmoe_cli.loggers.subscriber import require_loggers

        require_loggers(log)
    cluster = planned_cluster(world_size, gpu_tflops, link_gbs, dry_run=dry_run)
    where = restarted(runs_dir, name, resume)
    plan = plan_finetuning(
        source,
        which,
        task,
        recipe,
        all_overrides(settings, router=router, similarity=similarity, experts=experts),
        data_dir=data_dir,
        runs_dir=where.runs_dir,
        name=where.name,
        resume=where.resume,
        ranks=cluster.size if cluster else None,
    )
    if dry_run:
        from simsmoe_cli.cli.dry_run import show_finetuning

        show_finetuning(plan, device, cluster, as_json=as_json)
        return
    with unwatched():
        on = ready_device(plan.recipe, device, deterministic=deterministic)
        with together(plan.recipe.parallel, on) as world:
            carry_out(
                "finetune",
                plan,
                on,
                world,
                console(stderr=as_json),
                doing=_doing(plan),
                vocab_size=plan.vocabulary.size,
                train=lambda view: session.finetune(plan, on, world, **view.watch(profile)),
                summary=lambda result: _summary(result, plan.task.reported),
                longer=f"finetune.epochs={2 * plan.recipe.finetune.epochs}",
                data_dir=data_dir,
                log=log or [],
                as_json=as_json,
            )


def _doing(plan: "FinetunePlan") -> str:
    """What a progress bar says beside its share."""
    origin = plan.origin
    return f"fine-tuning {origin['run']} (step {origin['step']}) on {plan.task.name}"


def _summary(result: "TaskEvaluation", split: str) -> str:
    """The scores of the split that is reported."""
    return (
        f"{split} accuracy {result.accuracy:.2%}, macro-F1 {result.macro_f1:.3f}  "
        f"({len(result.label_E):,} examples, best epoch by validation)"
    )
