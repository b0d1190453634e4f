"""What training saved, opened for reading: which checkpoints a run has, and their weights.

Whoever looks at a model afterwards (evaluation, the collapse report) needs this and no trainer;
`train/checkpoint.py` describes the files and writes them. Nothing is ever unpickled, and nothing is
used before the schema of this file has seen it: a checksum says that a file is as it was written,
and not that it makes sense.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn

from simsmoe_cli.errors import EXIT_DATA, UserError, listed, printable
from simsmoe_cli.files.untrusted import Unreadable, read_json, unsealed, validated
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.folder import RunDir

MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
LARGEST_STATE = 64 << 20  # bytes
LARGEST = 1 << 53
LARGEST_VOCABULARY = 1 << 31
MOST_SAID = 3
_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_STEP = re.compile(r"step-([0-9]{7,})")


def _plain(name: str) -> str:
    """The name of a file in a folder, which cannot lead out of it."""
    if name in ("", ".", "..") or name != Path(name).name or not name.isprintable():
        raise ValueError("it is no plain file name")
    return name


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("it is no path")
    return text


PlainName = Annotated[str, Field(max_length=255), AfterValidator(_plain)]
PathText = Annotated[str, Field(max_length=4096), AfterValidator(_path)]
Hash = Annotated[str, Field(max_length=200)]
Label = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class Facts(BaseModel):
    """The values of a JSON file: a text is never taken for a number, and all numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class TokenizerFacts(Facts):
    """The tokenizer that a fine-tuned run took along."""

    kind: Literal["bytes", "chars", "words", "sentencepiece"]
    file: PlainName


class TaskFacts(Facts):
    """What a run was fine-tuned on."""

    name: Label
    labels: list[Label] = Field(min_length=1)
    fingerprint: Hash
    path: PathText


class Origin(Facts):
    """What a run was fine-tuned from."""

    run: Label
    step: Count
    sha256: Hash


class State(Facts):
    """The state.json of a checkpoint or of best/. Fields that are not here are passed over."""

    step: Count
    sha256: dict[PlainName, Hash]
    recipe: dict[str, Any]
    vocab_size: int = Field(ge=1, le=LARGEST_VOCABULARY)
    unit: Label
    vocabulary: Hash
    # Of a language model.
    corpus: Hash | None = None
    store: PathText | None = None
    # Of a fine-tuned model.
    task: TaskFacts | None = None
    tokenizer: TokenizerFacts | None = None
    pretrained: Origin | None = None
    # Of a checkpoint; best/ has none of these.
    best_loss: float | None = None
    events_bytes: Count | None = None
    precision: Literal["fp32", "bf16"] | None = None
    training_tensors: Count | None = None

    @model_validator(mode="after")
    def _whole(self) -> State:
        given = self.model_fields_set
        wanted = {"task", "tokenizer", "pretrained"} if "task" in given else {"corpus", "store"}
        if TRAINING in self.sha256:
            wanted |= {"events_bytes", "precision"}
        lacking = [name for name in sorted(wanted) if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if len(self.sha256.keys() - {TRAINING}) != 1:
            raise ValueError("it names not one file of weights")
        return self


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:07d}"


def step_folders(run: RunDir) -> list[tuple[int, Path]]:
    """Folders with the name of a checkpoint, oldest first, whatever they hold."""
    if not run.checkpoints.is_dir():
        return []
    found = ((_STEP.fullmatch(path.name), path) for path in run.checkpoints.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def list_checkpoints(run: RunDir) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run, oldest first."""
    return [(step, path) for step, path in step_folders(run) if (path / STATE).is_file()]


def find(run: RunDir, which: str) -> Path:
    """The folder of a run's checkpoint: "best", "last" or a step number.

    Raises:
        UserError: there is none; says which there are.
    """
    if not run.path.is_dir():
        raise UserError(
            "no such run folder",
            where=str(run.path),
            hint="Train one with `simsmoe pretrain`, or give the folder's path.",
            code=EXIT_DATA,
        )
    require_run(run)
    steps = dict(list_checkpoints(run))
    if which == "best" and (run.best / STATE).is_file():
        return run.best
    if which == "last" and steps:
        return steps[max(steps)]
    if len(which) < 20 and which.isdecimal() and int(which) in steps:
        return steps[int(which)]
    available = _available(run) or "none; the run saved no checkpoint yet"
    raise UserError(
        f"no checkpoint '{printable(which)}' in this run",
        where=str(run.path),
        hint=f"Available: {available}.",
        code=EXIT_DATA,
    )


def require_run(run: RunDir) -> None:
    """Raise a UserError, which says what it is, for a folder that no training made."""
    if any(path.exists() for path in (run.recipe, run.events, run.checkpoints, run.best)):
        return
    if (run.path / "config.json").is_file():
        what = "this folder holds a model, not a run: it has config.json and no recipe.yaml"
        hint = "Give the run folder. Only collapse-report reads models of Hugging Face."
    else:
        what, hint = "no run in this folder: it has no recipe.yaml", "Give a run folder."
    raise UserError(what, where=str(run.path), hint=hint, code=EXIT_DATA)


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint, as `State` demands, with its files checked against their
    checksums.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / STATE
    try:
        state = unsealed(read_json(path, LARGEST_STATE))
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    except Unreadable as error:
        raise damaged(path, f"it {error}") from None
    try:
        validated(State, state)
    except Unreadable as error:
        raise damaged(path, str(error)) from None
    named = _STEP.fullmatch(folder.name)
    if named and int(named[1]) != state["step"]:
        raise damaged(path, f"it is of step {state['step']}")
    for name, expected in state["sha256"].items():
        file = folder / name
        try:
            found = sha256(file) if file.is_file() else None
        except OSError as error:
            raise damaged(file, f"{error.strerror}") from None
        if found is None:
            raise damaged(file, "the file is missing")
        if found != expected:
            raise damaged(file, "its checksum does not match")
    return state


def weights_name(state: Mapping[str, Any]) -> str:
    """Name of the file with the weights."""
    files: dict[str, str] = state["sha256"]
    return next(name for name in files if name != TRAINING)


M = TypeVar("M", bound=Backbone)


def open_model(
    folder: Path, state: dict[str, Any], make: Callable[[], M], device: torch.device
) -> M:
    """A model filled from a checkpoint folder or best/.

    Args:
        folder, state: of the checkpoint.
        make: builds it; called twice, at first without memory for its contents, so that a state
            that asks for another model than its weights are of costs nothing.
        device: where to put it.

    Raises:
        UserError: see `load_weights`.
    """
    require_model(folder / weights_name(state), make)
    model = make().to(device)
    load_weights(folder, state, model)
    return model


def require_model(path: Path, make: Callable[[], nn.Module]) -> None:
    """Raise a UserError unless a model can be built and is that of a file of weights. Nothing is
    built in memory."""
    try:
        with torch.device("meta"):
            shapes = make()
    except UserError:
        raise
    except Exception as error:  # of a recipe that contradicts itself, and there are many ways
        raise damaged(path.with_name(STATE), f"its recipe makes no model ({error})") from None
    require_fit(path, shapes)


def require_fit(path: Path, model: nn.Module) -> None:
    """Raise a UserError unless a file of weights has a model's tensors; it may have no contents."""
    own = {
        name: (tuple(tensor.shape), _TYPES.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in model.state_dict().items()
    }
    try:
        found = tensors_in(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
    for names in _one_and_the_same(model):  # of which one is written
        if any(name in found for name in names):
            own = {name: what for name, what in own.items() if name in found or name not in names}
    differ = [
        f"{printable(name, 120)} is {_words(found.get(name))} in the file and "
        f"{_words(own.get(name))} in the model"
        for name in sorted(own | found)
        if found.get(name) != own.get(name)
    ]
    if differ:
        raise UserError(
            f"the checkpoint's weights do not fit this model: {_first(differ)}",
            where=str(path),
            hint="Use the recipe (router, experts, widths) it was trained with.",
            code=EXIT_DATA,
        )


def tensors_in(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types (as safetensors calls them) of the tensors of a file, by name.

    Raises:
        SafetensorError, OSError: it cannot be read.
    """
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in parts.items()
        }


def load_weights(folder: Path, state: dict[str, Any], model: Backbone) -> None:
    """Fill the model from a checkpoint folder or best/.

    Raises:
        UserError: the weights are of another model, or no numbers; says which router, or which
            tensors.
    """
    trained, given = state["recipe"]["moe"]["router"], model.recipe.moe.router
    if model.moe_layers and trained != given:  # tensors of different routers may well fit
        raise UserError(
            f"the checkpoint was trained with router {printable(trained)}, and this model has "
            f"{given}",
            where=str(folder),
            hint=f"Set moe.router to {printable(trained)}.",
            code=EXIT_DATA,
        )
    path = folder / weights_name(state)
    require_fit(path, model)
    try:
        load_model(model, path, strict=True, device=_device(model))
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise damaged(path, f"{name} holds values that are not finite")


def recipe_of(folder: Path, state: dict[str, Any]) -> Recipe:
    """The recipe a checkpoint was written with.

    Raises:
        UserError: this version of simsmoe has no such recipe.
    """
    try:
        recipe = Recipe.model_validate(state["recipe"])
    except ValidationError as error:
        wrong = [".".join(map(str, detail["loc"])) for detail in error.errors()]
    else:
        wrong = [] if bool(recipe.finetune.task) == ("task" in state) else ["finetune.task"]
    if wrong:
        raise UserError(
            f"its recipe is not one of this version of simsmoe ({_first(wrong)})",
            where=str(folder),
            hint="Use the version the run was trained with; environment.json names it.",
            code=EXIT_DATA,
        )
    return recipe


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, why: str) -> UserError:
    """What to say of a file of a checkpoint that cannot be used, and of the others of its run."""
    folder = path.parent
    run = RunDir(folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent)
    others = _available(run, but=folder)
    return UserError(
        f"damaged checkpoint: {printable(why, 400)}",
        where=str(path),
        hint=f"Use another checkpoint of this run: {others}."
        if others
        else "The run has no other.",
        code=EXIT_DATA,
    )


def _available(run: RunDir, but: Path | None = None) -> str:
    """The checkpoints a run has, in words; empty where it has none."""
    steps = [str(step) for step, path in list_checkpoints(run) if path != but]
    if steps and but is None:
        steps.append("last")
    if (run.best / STATE).is_file() and run.best != but:
        steps.append("best")
    return ", ".join(steps)


def _first(texts: list[str]) -> str:
    return listed(texts, MOST_SAID, longest=160, between="; ")


def _one_and_the_same(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one, where there are several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _words(tensor: tuple[tuple[int, ...], str] | None) -> str:
    if tensor is None:
        return "missing"
    shape, kind = tensor
    return f"{' x '.join(map(str, shape)) or 'a number'} ({kind})"


def _device(model: nn.Module) -> str:
    return str(next(model.parameters()).device)
