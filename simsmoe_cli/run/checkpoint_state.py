"""The schema of a checkpoint's state.json.

A checksum only shows that a file is unchanged. This schema checks that its values make sense before
they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
OF_TRAINING = "training"  # what names of files with anything else than weights begin with
LARGEST_STATE = 64 << 20  # bytes
LARGEST = 1 << 53  # whole numbers up to here are exact as floats
LARGEST_VOCABULARY = 1 << 31


def _plain(name: str) -> str:
    """A file name that cannot lead out of its folder."""
    if name in ("", ".", "..") or name != Path(name).name or not name.isprintable():
        raise ValueError("it is not a plain file name")
    return name


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("it is not a path")
    return text


PlainName = Annotated[str, Field(max_length=255), AfterValidator(_plain)]
PathText = Annotated[str, Field(max_length=4096), AfterValidator(_path)]
Hash = Annotated[str, Field(max_length=200)]
Label = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class Facts(BaseModel):
    """Base of schemas of JSON files: text is not converted to numbers, and numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class TokenizerFacts(Facts):
    """The tokenizer in the folder of a fine-tuned run."""

    kind: Literal["bytes", "chars", "words", "sentencepiece", "huggingface"]
    file: PlainName


class TaskFacts(Facts):
    """The task that a run was fine-tuned on."""

    name: Label
    labels: list[Label] = Field(min_length=1)
    fingerprint: Hash
    path: PathText


class Origin(Facts):
    """The weights that a run started from."""

    run: Label
    step: Count
    sha256: Hash


class State(Facts):
    """The state.json of a checkpoint or of best/. Unknown fields are ignored."""

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
    # Of a fine-tuned model, and of a language model that started from another run's weights.
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
        weights = [name for name in self.sha256 if not name.startswith(OF_TRAINING)]
        if len(weights) < len(self.sha256):
            wanted |= {"events_bytes", "precision"}
        lacking = [name for name in sorted(wanted) if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if not weights:
            raise ValueError("it names no file of weights")
        return self
