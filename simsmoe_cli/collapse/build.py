"""Makes a report from folders: chooses the checkpoints, measures them, and judges the findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from simsmoe_cli.collapse.estimate import Plan, plan
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.ablation.ablate import ablate
from simsmoe_cli.collapse.measure.layers import measure, with_pair_of
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.measure.saturation import choices_of, saturation
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.local_paths import without_paths
from simsmoe_cli.collapse.sources.base import Source
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.collapse.sources.open_run import checkpoints, open_run
from simsmoe_cli.collapse.sources.replay import CannotReplay
from simsmoe_cli.collapse.specialisation import Domain, Saturation
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.errors import UserError, nearest, printable
from simsmoe_cli.huggingface.unsupported import other_folder
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.duration import duration
from simsmoe_cli.run.find import require_run
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.layer_labels import find_layers, layer_labels

HELD_OUT = ("valid", "test")
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
ROWS = 4096  # tokens that all experts see if not told otherwise
EARLIER = 3  # checkpoints that the routing is compared with
FIGURES = 14  # of a report, not counting one for each layer and run
# Seconds a figure takes in each format.
FIGURE_S = {"html": 0.12, "pdf": 0.3, "svg": 0.12, "png": 0.2}
START_S = 2.0  # seconds to import matplotlib and find its fonts


class View(Protocol):
    """Receives the progress of a report."""

    def say(self, words: str) -> None:
        """Show a message on a line of its own."""

    def at(self, words: str, share: float) -> None:
        """Show that this share of the work is done, 0 to 1, and the current activity in words."""


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        path: a run folder, or that of a Hugging Face model.
        against: another to compare with.
        checkpoint: best, last, all or a step; None is best. For `against`, all means best.
        split: of HELD_OUT; None is valid.
        texts: files for a Hugging Face model; of a run further domains beside its corpus.
        tokens: number of tokens that all experts see; None: ROWS, or fewer for a large model.
        layers: which to measure, as the model numbers them; None: all with experts.
        device: where to compute.
        data_dir: where prepared corpora lie.
        formats: of `show.files.FORMATS`, in which the report will be written.
        ablate_tokens: as of `Options`; of all checkpoints, for the last.
    """

    path: Path
    against: Path | None
    checkpoint: str | None
    split: str | None
    texts: Sequence[Path]
    tokens: int | None
    layers: str | None
    device: torch.device
    data_dir: Path
    formats: Sequence[str] = ()
    ablate_tokens: int | None = None


def make_report(request: Request, view: View) -> Report:
    """Measure and judge.

    Args:
        request: what to measure.
        view: receives the estimated cost and the progress.

    Raises:
        UserError: contradictory or unknown settings, or a folder that cannot be measured.
    """
    _check(request)
    others = [
        source
        for path in (request.against,)
        if path is not None
        for source, _ in _sources(path, request, last_only=True)
    ]
    for other in others:  # before hours are spent on the run itself
        _layers(other, request)
    found: list[Findings] = []
    for source, last in _sources(request.path, request, last_only=False):
        asked = request if last else replace(request, ablate_tokens=0)
        made = _plan(source, asked, view, with_figures=not found)
        found.append(_measure(source, made, view))
    found[-1] = _with_parts(found[-1], source, made, request.path, request, view)
    found[-1] = _with_ablation(found[-1], source, made, view)
    against = None
    if others:
        theirs = _plan(others[0], request, view)
        against = _measure(others[0], theirs, view)
        assert request.against is not None
        against = _with_parts(against, others[0], theirs, request.against, request, view)
        against = _with_ablation(against, others[0], theirs, view)
        found[-1], against = _one_pair(
            (found[-1], source, made.options), (against, others[0], theirs.options)
        )
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
        if not model:
            require_run(run)
    for name, value in (("--checkpoint", request.checkpoint), ("--split", request.split)):
        if value is not None and all(models):
            raise UserError(
                "a Hugging Face model has none", where=name, hint="Leave it out: it is for a run."
            )


def _sources(path: Path, request: Request, *, last_only: bool) -> Iterator[tuple[Source, bool]]:
    """The checkpoints of a run to measure, or a Hugging Face model, opened one after another, and
    whether it is the last."""
    if is_huggingface(path):
        yield open_huggingface(path, request.texts or None, device=request.device), True
        return
    run, which = RunDir(path), request.checkpoint or "best"
    if last_only and which == "all":
        which = "best"
    names = checkpoints(run, which)
    for name in names:
        source = open_run(
            run,
            name,
            split=request.split or "valid",
            data_dir=request.data_dir,
            device=request.device,
            texts=() if last_only else request.texts,
        )
        yield source, name == names[-1]


def _name(source: Source) -> str:
    step = source.subject.step
    return printable(source.subject.name) + ("" if step is None else f", step {step:,}")


def _layers(source: Source, request: Request) -> list[int]:
    """The layers to measure; a UserError where the model lacks one that is asked for."""
    if request.layers is None:
        return list(range(len(source.layers)))
    labels = layer_labels([layer.name for layer in source.layers])
    return find_layers(request.layers, labels, "--layers")


def _plan(source: Source, request: Request, view: View, *, with_figures: bool = False) -> Plan:
    """Choose the layers and the number of tokens; report the cost, and that of drawing if asked."""
    layers = _layers(source, request)
    options = Options(rows=request.tokens or ROWS, ablate_tokens=request.ablate_tokens)
    asked = request.tokens is not None
    made = plan(source, options, layers, request.device, asked=asked)
    drawing = drawing_seconds(request, len(layers)) if with_figures else 0.0
    words = replace(made, seconds=made.seconds + drawing).words
    if made.options.ablate_tokens:
        more = duration(max(1.0, made.ablation_seconds))
        words += f"; about {more} more to leave out and merge experts (--no-ablation skips it)"
    view.say(f"{_name(source)}: {words}")
    return made


def drawing_seconds(request: Request, layers: int) -> float:
    """An estimate of the time that drawing the figures takes, in seconds."""
    each = sum(FIGURE_S[name] for name in request.formats if name in FIGURE_S)
    figures = FIGURES + layers * (1 if request.against is None else 2)
    return (START_S + figures * each) if each else 0.0


def _measure(source: Source, made: Plan, view: View) -> Findings:
    name, layers, before = _name(source), len(made.layers), made.share_before_ablation

    def on_progress(share: float, done: int) -> None:
        of_all = made.forward * share + (1 - made.forward) * done / layers
        words = "reading text" if done == 0 else f"{done} of {layers} layers measured"
        view.at(f"{name}: {words}", of_all * before)

    found = measure(source, made.options, on_progress, made.layers)
    subject = found.subject.model_copy(update={"settings": without_paths(found.subject.settings)})
    text = found.text.model_copy(update={"notes": without_paths(found.text.notes)})
    settings = found.settings.model_copy(
        update={"precision": PRECISIONS.get(source.size.dtype, str(source.size.dtype))}
    )
    return found.model_copy(update={"subject": subject, "text": text, "settings": settings})


def _with_parts(
    findings: Findings, source: Source, made: Plan, path: Path, request: Request, view: View
) -> Findings:
    """The findings with the routing of each domain, and how much of the routing was there at the
    run's earlier checkpoints.

    Args:
        findings, source, made: of the model.
        path: its folder.
        request: as of `make_report`.
        view: receives the activity.
    """
    tokens, layers, name = made.options.rows, made.layers, _name(source)
    shares: dict[int, dict[str, list[float]]] = {layer: {} for layer in layers}
    domains: list[Domain] = []
    for domain, part in source.domains():
        view.at(f"{name}: reading {printable(domain)}", made.share_before_ablation)
        choices = choices_of(part, tokens, layers)
        domains.append(Domain(name=domain, tokens=len(choices[layers[0]])))
        for layer, received_TN in choices.items():
            shares[layer][domain] = received_TN.double().mean(0).tolist()
    earlier: dict[int, list[Saturation]] = {layer: [] for layer in layers}
    steps = _earlier_steps(path, source)
    now = choices_of(source, tokens, layers) if steps else {}
    for step in steps:
        view.at(f"{name}: reading the text at step {step:,}", made.share_before_ablation)
        before = open_run(
            RunDir(path),
            str(step),
            split=request.split or "valid",
            data_dir=request.data_dir,
            device=request.device,
        )
        for layer, then_TN in choices_of(before, tokens, layers).items():
            earlier[layer].append(saturation(now[layer], then_TN, step))
    found = [
        layer.model_copy(
            update={"domain_share": shares[layer.layer], "saturation": earlier[layer.layer]}
        )
        for layer in findings.layers
    ]
    return findings.model_copy(update={"layers": found, "domains": domains})


def _earlier_steps(path: Path, source: Source) -> list[int]:
    """Steps of the run's checkpoints before the one that is measured; the last few of them."""
    step = source.subject.step
    if source.subject.kind != "run" or step is None:
        return []
    saved = [known for known, _ in checkpoint.list_checkpoints(RunDir(path)) if known < step]
    return sorted(saved)[-EARLIER:]


def _with_ablation(findings: Findings, source: Source, made: Plan, view: View) -> Findings:
    """The findings with what leaving out and merging experts costs, or why that is not known."""
    name, tokens, refused = _name(source), made.options.ablate_tokens, made.ablation_refused
    if not tokens:
        return findings.model_copy(update={"ablation_refused": refused})
    before = made.share_before_ablation

    def on_progress(share: float) -> None:
        words = f"{name}: leaving out and merging experts, {share:.0%}"
        view.at(words, before + (1 - before) * share)

    try:
        replay = source.replay(tokens)
        found = ablate(source, replay, findings, made.options, on_progress)
    except CannotReplay as error:
        return findings.model_copy(update={"ablation_refused": str(error)})
    return findings.model_copy(update={"ablation": found})


def _one_pair(
    main: tuple[Findings, Source, Options], against: tuple[Findings, Source, Options]
) -> tuple[Findings, Findings]:
    """The findings of both runs, with the difference of the same pair in both."""
    (here, source, options), (there, other, theirs) = main, against
    if here.difference is None or there.difference is None:
        return here, there
    if here.difference.cka >= there.difference.cka:
        return here, with_pair_of(there, other, theirs, here)
    return with_pair_of(here, source, options, there), there
