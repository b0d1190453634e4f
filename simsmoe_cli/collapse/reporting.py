"""From folders to a report: which checkpoints, of which run, against which other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from simsmoe_cli.collapse.findings import Findings, Report
from simsmoe_cli.collapse.huggingface import open_huggingface
from simsmoe_cli.collapse.local_paths import without_paths
from simsmoe_cli.collapse.measure import Options, measure, with_pair_of
from simsmoe_cli.collapse.model_folder import other_folder
from simsmoe_cli.collapse.opening import checkpoints, open_run
from simsmoe_cli.collapse.sources import Source
from simsmoe_cli.collapse.verdict import judge
from simsmoe_cli.errors import UserError, nearest
from simsmoe_cli.rundir import RunDir

HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        path: a run folder, or that of a Hugging Face model.
        against: another to compare with.
        checkpoint: best, last, all or a step; None is best. Of `against` it is best where `path`
            shows all.
        split: of HELD_OUT; None is valid.
        text: a file for a Hugging Face model.
        tokens: that all experts see.
        device: where to compute.
        data_dir: where prepared corpora lie.
    """

    path: Path
    against: Path | None
    checkpoint: str | None
    split: str | None
    text: Path | None
    tokens: int
    device: torch.device
    data_dir: Path


def make_report(request: Request, on_progress: Callable[[str], None]) -> Report:
    """Measure and judge.

    Args:
        request: what to measure.
        on_progress: told in words what is done next.

    Raises:
        UserError: contradictory or unknown settings, or a folder that cannot be measured.
    """
    _check(request)
    others = [
        source
        for path in (request.against,)
        if path is not None
        for source in _sources(path, request, last_only=True)
    ]
    found: list[Findings] = []
    for source in _sources(request.path, request, last_only=False):
        found.append(_measure(source, request, on_progress))
    against = None
    if others:
        against = _measure(others[0], request, on_progress)
        found[-1], against = _one_pair((found[-1], source), (against, others[0]), request)
    return Report(findings=found, against=against, verdict=judge(found[-1], against))


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model and not a run."""
    return (folder / "config.json").is_file() and not RunDir(folder).recipe.is_file()


def _check(request: Request) -> None:
    if request.split is not None and request.split not in HELD_OUT:
        raise UserError(
            f"no held-out split '{request.split}'",
            where="--split",
            hint=nearest(request.split, HELD_OUT),
        )
    folders = [path for path in (request.path, request.against) if path is not None]
    if len({path.resolve() for path in folders}) < len(folders):
        raise UserError("a run cannot be compared with itself", where="--against")
    models = [is_huggingface(path) for path in folders]
    for path, model in zip(folders, models, strict=True):
        run = RunDir(path)
        other = None if model or run.recipe.exists() or run.events.exists() else other_folder(path)
        if other is not None:
            raise other
    if request.text is not None and not any(models):
        raise UserError(
            "a run is measured on its own corpus",
            where="--text",
            hint="Leave it out: it is for a Hugging Face model.",
        )
    for name, value in (("--checkpoint", request.checkpoint), ("--split", request.split)):
        if value is not None and all(models):
            raise UserError(
                "a Hugging Face model has none", where=name, hint="Leave it out: it is for a run."
            )


def _sources(path: Path, request: Request, *, last_only: bool) -> Iterator[Source]:
    """What is to be measured of a folder, opened one after the other."""
    if is_huggingface(path):
        yield open_huggingface(path, request.text, device=request.device)
        return
    run, which = RunDir(path), request.checkpoint or "best"
    if last_only and which == "all":
        which = "best"
    for name in checkpoints(run, which):
        yield open_run(
            run,
            name,
            split=request.split or "valid",
            data_dir=request.data_dir,
            device=request.device,
        )


def _measure(
    source: Source,
    request: Request,
    on_progress: Callable[[str], None],
) -> Findings:
    step = source.subject.step
    name = source.subject.name + ("" if step is None else f", step {step:,}")
    on_progress(f"{name}: reading text")
    found = measure(
        source,
        _options(request),
        lambda done, of: on_progress(f"{name}: {done} of {of} layers measured"),
    )
    subject = found.subject.model_copy(update={"settings": without_paths(found.subject.settings)})
    text = found.text.model_copy(update={"notes": without_paths(found.text.notes)})
    return found.model_copy(update={"subject": subject, "text": text})


def _options(request: Request) -> Options:
    return Options(rows=request.tokens)


def _one_pair(
    main: tuple[Findings, Source], against: tuple[Findings, Source], request: Request
) -> tuple[Findings, Findings]:
    """Both runs with the difference of one pair: the most alike of the run where it is more so."""
    (here, source), (there, other) = main, against
    if here.difference is None or there.difference is None:
        return here, there
    if here.difference.cka >= there.difference.cka:
        return here, with_pair_of(there, other, _options(request), here)
    return with_pair_of(here, source, _options(request), there), there
