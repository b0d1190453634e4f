"""Writes a dense run of ours as a run with a mixture of experts, untrained at step 0.

Each feed-forward sub-layer `f` of the pattern becomes `g`. Its experts start from the dense block
(`experts.py`), the router is new, and all other weights are copied. The new run has the corpus and
the vocabulary of the dense one, so every command reads it, and `pretrain --from` trains it.

Shapes: N experts, H hidden units, D model width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from simsmoe_cli.errors import DataError
from simsmoe_cli.files import atomic
from simsmoe_cli.files.names import safe_name
from simsmoe_cli.model.interface import language_model
from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.load import dump_recipe, override_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, save_checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.upcycle.experts import DenseMatrix, Settings
from simsmoe_cli.upcycle.write import STAGE, Progress, Upcycled, silent

KEPT = ("vocab_size", "unit", "vocabulary", "corpus", "store")  # of the state of the dense run


def upcycle_run(
    dense: RunDir, out: Path, settings: Settings, progress: Progress = silent
) -> Upcycled:
    """Write the best weights of a dense run as a mixture of experts.

    Args:
        dense: a run whose pattern has an f and no g.
        out: a folder that does not exist yet, or is empty; it becomes the folder of a run.
        settings: how the experts are made.
        progress: called with a stage, the bytes done and the bytes in all.

    Raises:
        UserError: a setting is wrong, the run has no dense feed-forward sub-layer or has experts
            already, its weights cannot be read, or `out` is not empty.
    """
    settings.check()
    atomic.require_new(out)
    opened = OpenedRun.open(dense, "best", Path())
    opened.require_language_model()
    opened.require_model()
    recipe = _with_experts(opened.recipe, dense, settings)
    files = opened.tensors()
    found = {name: files.read(name) for name in files.found}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = language_model(recipe, opened.state["vocab_size"])
    own = model.state_dict()
    places = [place for place, kind in enumerate(opened.recipe.model.sublayers) if kind == "f"]
    total = sum(tensor.nbytes for tensor in own.values())
    for done, place in enumerate(places):
        before, after = f"layers.{place}.ffn.", f"layers.{place}.moe.experts."
        for name in [name for name in found if name.startswith(before)]:
            matrix, what = name.removeprefix(before).split(".")
            new = after + matrix.replace("w", "b" if what == "bias" else "w")
            swiglu = recipe.model.activation == "swiglu" and matrix == "w_in"
            own[new].copy_(_experts(found.pop(name), settings, new, done, swiglu=swiglu))
        progress(STAGE, total * (done + 1) // len(places), total)
    for name, tensor in found.items():
        own[name].copy_(tensor)
    start = {
        "run": dense.name,
        "step": opened.step,
        "sha256": checkpoint.weights_sha256(opened.state),
    }
    state = {name: opened.state[name] for name in KEPT}
    state |= {"recipe": recipe.model_dump(mode="json"), "pretrained": start}
    with atomic.whole_folder(out) as partial:
        run = RunDir(partial)
        atomic.write(run.recipe, dump_recipe(recipe))
        save_checkpoint.save_best(run, 0, model, state)
    size = measure(recipe, opened.state["vocab_size"])
    return Upcycled("simsmoe", size.parameters, size.active_parameters, total)


def _with_experts(recipe: Recipe, run: RunDir, settings: Settings) -> Recipe:
    """The recipe with experts in the place of dense sub-layers."""
    pattern = recipe.model.pattern
    if recipe.huggingface.used or "g" in pattern:
        raise DataError(
            "the model of this run already is a mixture of experts",
            where=str(run.path),
            hint=f"Train it as it is: simsmoe pretrain --from {run.path}.",
        )
    if "f" not in pattern:
        raise DataError(
            f"its pattern '{pattern}' has no feed-forward sub-layer (f) to make experts of",
            where=str(run.path),
            hint="Give a run whose pattern has one, such as sf.",
        )
    name = safe_name(f"{recipe.name}-upcycled") or "upcycled"
    return override_recipe(
        recipe,
        [
            f"name={name}",
            f"description=upcycled from {run.name}",
            f"model.pattern={pattern.replace('f', 'g')}",
            f"moe.experts={settings.experts}",
            f"moe.top_k={settings.top_k}",
            f"moe.hidden={recipe.model.ffn_hidden}",
            "moe.router=smoe",
        ],
    )


def _experts(dense: Tensor, settings: Settings, name: str, layer: int, *, swiglu: bool) -> Tensor:
    """The stacked matrices or biases of the experts of a layer, [N, ...].

    Args:
        dense: [H, D], [D, H], or a bias, which is copied.
        settings, name, layer: as of `DenseMatrix.expert`.
        swiglu: whether it is a gate and an up projection, one above the other.
    """
    if dense.dim() == 1:
        return dense.expand(settings.experts, -1)
    out = name.endswith("w_out")
    parts = [DenseMatrix.of(part, settings) for part in dense.chunk(2 if swiglu else 1)]
    return torch.stack(
        [
            torch.cat(
                [
                    part.expert(settings, f"{name} {expert} {number}", layer, expert, out=out)
                    for number, part in enumerate(parts)
                ]
            )
            for expert in range(settings.experts)
        ]
    )
