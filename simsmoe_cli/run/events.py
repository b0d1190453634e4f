"""The events of a run: what each kind says, how they are written, and how every reader parses them.

A run's events.jsonl holds one JSON object a line. Each has ``schema``, ``kind``, ``step`` and
``time``; the classes below are the kinds and document their further fields:

    run_started    `RunStarted`: what is trained; again where a resumed run has other settings
    train          `Train`: means over the steps since the last one, and their speed
    eval           `Eval`: a score on a split
    router         `Router`: how a probe found the experts loaded
    similarity     `Similarity`: how similar a probe found the experts
    checkpoint     `Checkpoint`: one was taken; its folder has its name once it is whole
    profile        `Profile`: some steps were profiled
    warning        `Warned`: something that people should know
    run_finished   `RunFinished`: how the run ended

Readers skip kinds and fields that they do not know, and a torn last line. A resumed run first cuts
the file back to where its checkpoint was taken, so whoever follows it must expect it to shrink.
Values that depend on the clock are in ``time`` and in fields that end in ``_per_s`` or ``_ms``, and
nowhere else, so two runs of one seed have equal events but for those.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import (
    Any,
    BinaryIO,
    Literal,
    Required,
    TypeAlias,
    TypedDict,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, from_json
from pydantic_core import core_schema as cs

from simsmoe_cli.errors import printable

SCHEMA = 2
TOO_LARGE = 1e300  # numbers from here on cannot be added up
LARGEST = 1 << 53  # whole numbers up to here are exact as floats
LONG_LINE = 8 << 20  # bytes; only similarity events of schema 1 are longer
LONGEST_LINE = 64 << 20
MARK_BYTES = 256  # of a line, in which its kind is found

Number: TypeAlias = float | None  # None, null in JSON: undefined, or not finite


class Stamp(TypedDict, total=False):
    """What the log adds to every event.

    Attributes:
        schema: of the event.
        time: seconds since the epoch when it was written.
    """

    schema: Literal[1, 2]
    time: Number


class Header(Stamp, total=False):
    """What every event has; `step` is the number of optimizer steps done."""

    step: Required[int]


class TaskFacts(Stamp, total=False):
    """What a fine-tuned run adds to `RunStarted`: its task, the labels, steps of an epoch."""

    task: str
    labels: list[str]
    steps_per_epoch: int


class RunStarted(Header, TaskFacts, total=False):
    """What is trained; again where a resumed run goes on with other settings.

    Attributes:
        name: of the run.
        recipe: the resolved recipe.
        parameters: of the model.
        tokens_per_step: tokens that one optimizer step reads; of texts, the most there can be.
        total_steps: steps of the whole training.
        unit: what the loss is a mean over: "byte", "character", "word" ..., or "text" of a
            classifier.
        device, precision: what computes, "fp32" or "bf16".
    """

    kind: Required[Literal["run_started"]]
    name: str
    recipe: dict[str, Any]
    parameters: int
    tokens_per_step: int
    total_steps: int
    unit: str
    device: str
    precision: str


class SimilarityLearning(TypedDict, total=False):
    """Similarity learning since the last train event.

    Attributes:
        pairs_due: pairs compared per step.
        mean: their mean similarity; None where no pair was due.
        weight, threshold, check_every, sigma: settings in force, as far as they have an effect.
    """

    pairs_due: Number
    mean: Number
    weight: Number
    threshold: Number
    check_every: Number
    sigma: Number


class Train(Header, total=False):
    """Means over the steps since the last train event, and their speed.

    Attributes:
        loss_nats: of the task, per `unit` of the run.
        bpc: the same in bits, where the unit is a byte or a character; else None.
        accuracy: share of texts classified right; of a fine-tuned run only.
        losses: auxiliary losses by name, nats, before their weights.
        lr: learning rate of the last step.
        grad_norm: before clipping.
        tokens: read since the training began, padding left out.
        similarity: where similarity learning is on.
        metrics: what routers report, by name, mean over layers and steps.
        tokens_per_s, step_ms: speed of the steps alone.
    """

    kind: Required[Literal["train"]]
    loss_nats: Number
    bpc: Number
    accuracy: Number
    losses: dict[str, Number]
    lr: Number
    grad_norm: Number
    tokens: int
    similarity: SimilarityLearning
    metrics: dict[str, Number]
    tokens_per_s: Number
    step_ms: Number


class SplitScore(Stamp, total=False):
    """A score on a split.

    Attributes:
        split: "valid", "test" ...
        loss_nats, bpc, accuracy: as in `Train`.
        bits_per_byte: of the text.
        perplexity, word_perplexity: per token and per word.
        macro_f1, examples: of a classifier only: mean F1 of the classes, texts scored.
        tokens: scored, padding left out.
        tokens_per_s: speed.
    """

    split: str
    loss_nats: Number
    bpc: Number
    accuracy: Number
    bits_per_byte: Number
    perplexity: Number
    word_perplexity: Number
    macro_f1: Number
    examples: int
    tokens: int
    tokens_per_s: Number


class Eval(Header, SplitScore, total=False):
    """A score on a split.

    Attributes:
        best: whether no earlier validation was as good: in accuracy for a classifier, else in loss.
    """

    kind: Required[Literal["eval"]]
    best: bool


class RouterLayer(TypedDict, total=False):
    """How the router of one layer loads its N experts.

    Attributes:
        layer: its place among the layers with experts, from 0.
        load: [N], fraction of the routed slots.
        load_cv: standard deviation of the load over its mean.
        dead: experts with less than 1% of a fair share.
        entropy_nats: of a token's routing probabilities, mean over tokens.
        entropy_of_mean_nats: of the mean routing probabilities.
    """

    layer: Required[int]
    load: list[Number]
    load_cv: Number
    dead: list[int]
    entropy_nats: Number
    entropy_of_mean_nats: Number


class Router(Header, total=False):
    """How a probe found the experts loaded."""

    kind: Required[Literal["router"]]
    layers: list[RouterLayer]


class SimilarityLayer(TypedDict, total=False):
    """How similar the experts of one layer are.

    Attributes:
        layer: its place among the layers with experts, from 0.
        mean: of the pairs where it is defined.
        highest, pair: the most similar pair and its similarity; left out where none is defined.
    """

    layer: Required[int]
    mean: Number
    highest: Number
    pair: list[int]


class _Schema1Layer(TypedDict, total=False):
    """What a layer of schema 1 has of pairs, [N][N] each; fractions of tokens in `shared`."""

    layer: Required[int]
    cka: Any
    shared: Any


class ProbedSimilarity(Stamp, total=False):
    """How similar a probe found the experts.

    Attributes:
        measure: name of the similarity measure.
        tokens: of the probe.
        layers: in their order.
        matrices: file of the matrices, from the run folder; see `run.probes`.
        held: never written. Events of schema 1 held the matrices themselves: here they are, as
            `probes.Matrices`, if `parse_event` was asked for them.
    """

    measure: str
    tokens: int
    layers: list[SimilarityLayer]
    matrices: str
    held: Any


class Similarity(Header, ProbedSimilarity, total=False):
    """How similar a probe found the experts."""

    kind: Required[Literal["similarity"]]


class Checkpoint(Header, total=False):
    """A checkpoint was taken. It is written meanwhile: its folder has this name once it is whole.

    Attributes:
        path: of its folder, from the run folder.
    """

    kind: Required[Literal["checkpoint"]]
    path: str


class Profile(Header, total=False):
    """Some steps were profiled.

    Attributes:
        path: of its folder, from the run folder.
        trace, summary: files in there.
    """

    kind: Required[Literal["profile"]]
    path: str
    trace: str
    summary: str


class Warned(Header, total=False):
    """Something that people should know."""

    kind: Required[Literal["warning"]]
    message: str


class TestScores(Stamp, total=False):
    """Scores of the best weights on the test split: as in `SplitScore`."""

    test_loss_nats: Number
    test_bpc: Number
    test_accuracy: Number


class RunFinished(Header, TestScores, total=False):
    """How the run ended.

    Attributes:
        status: how.
        reason: why, in words.
        best_step: step of the best weights; only if it finished, as the test scores.
    """

    kind: Required[Literal["run_finished"]]
    status: Literal["finished", "stopped", "failed"]
    reason: str
    best_step: int


Event: TypeAlias = (
    RunStarted | Train | Eval | Router | Similarity | Checkpoint | Profile | Warned | RunFinished
)


class EventLog:
    """Appends events to a run folder and tells whoever subscribed.

    Args:
        path: the events.jsonl to append to.
        keep_bytes: cut the file to this length first (what a resumed run had written when its
            checkpoint was taken), as far as whole lines of it are still there; None starts a new
            file.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None):
        self._subscribers: list[Callable[[dict[str, Any]], None]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_bytes is None or not path.exists():
            path.write_bytes(b"")
        os.truncate(path, _whole_lines(path, keep_bytes or 0))
        self._file = open(path, "ab")  # noqa: SIM115

    def subscribe(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call `callback` with every event from now on."""
        self._subscribers.append(callback)

    def emit(self, event: Event) -> None:
        """Write an event as one whole line, with schema and time, and pass it on."""
        header = {"schema": SCHEMA, "kind": event["kind"], "step": event["step"]}
        written = finite(header | {"time": time.time()} | event)
        line = json.dumps(written, separators=(",", ":"), allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        for callback in self._subscribers:
            callback(written)

    def position(self) -> int:
        """Bytes written so far."""
        self._file.flush()
        return self._file.tell()

    def sync(self) -> None:
        """Return when everything written so far is on the disk. Another thread may call it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def finite(value: Any) -> Any:
    """The value with every float JSON cannot hold (nan, inf) replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _whole_lines(path: Path, limit_bytes: int) -> int:
    """Length of the whole lines that a file begins with, of at most so many bytes."""
    with open(path, "rb") as file:
        end = min(limit_bytes, file.seek(0, os.SEEK_END))
        while end:
            begin = max(0, end - (1 << 20))
            file.seek(begin)
            last = file.read(end - begin).rfind(b"\n")
            if last >= 0:
                return begin + last + 1
            end = begin
    return 0


class NotAnEvent(ValueError):
    """Why a line is skipped, in words for people.

    Attributes:
        why: the same in one word: "broken" (it is not an event), "newer" (of a schema that this
            version cannot read) or "long" (over 8 MiB; 64 MiB of a similarity event).
    """

    def __init__(self, why: Literal["broken", "newer", "long"], message: str):
        super().__init__(message)
        self.why = why


def read_events(path: Path) -> Iterator[Event]:
    """Every whole event of a file, oldest first; lines that are not events are skipped."""
    with open(path, "rb") as file:
        for line in _lines(file):
            try:
                yield parse_event(line)
            except NotAnEvent:
                continue


def longest(line: bytes | bytearray, first: int = 0) -> int:
    """How many bytes a line may have that begins at `first`."""
    similarity = line.find(b'"similarity"', first, first + MARK_BYTES) >= 0
    return LONGEST_LINE if similarity else LONG_LINE


def parse_event(line: bytes | bytearray, matrices: bool = False) -> Event:
    """The event of a line.

    Every field is what the class of its kind says. A value that is not is left out, as are fields
    that the class does not have. Of a kind that is not known the header is left.

    Args:
        line: of an events.jsonl.
        matrices: whether to read those of an event of schema 1, which takes long.

    Raises:
        NotAnEvent: it is not an event, too long, or of a schema that this version cannot read.
    """
    if len(line) > LONG_LINE and len(line) > longest(line):
        raise NotAnEvent("long", f"lines of over {LONG_LINE >> 20} MiB are skipped")
    try:
        event = cast(Event, _VALIDATOR.validate_json(line))
    except ValidationError:
        return _of_unknown_kind(line)
    if matrices and event["kind"] == "similarity" and event.get("schema", 1) == 1:
        from simsmoe_cli.run.probes import of_schema_1

        if held := of_schema_1(_SCHEMA_1.validate_json(line).get("layers", [])):
            event["held"] = held
    return event


def _of_unknown_kind(line: bytes | bytearray) -> Event:
    broken = NotAnEvent("broken", "lines that are not events are skipped")
    try:
        fields = from_json(line)
    except ValueError:
        raise broken from None
    if not isinstance(fields, dict) or not isinstance(kind := fields.get("kind"), str):
        raise broken
    if (schema := fields.get("schema", SCHEMA)) not in (1, 2):
        raise NotAnEvent(
            "newer",
            f"events of schema {printable(repr(schema), 20)} are skipped: this version of simsmoe "
            f"reads schema {SCHEMA} and older",
        )
    try:
        return cast(Event, {"kind": kind} | _HEADER.validate_python(fields))
    except ValidationError:
        raise broken from None


def number(value: Any) -> Number:
    """A number of an event; None for anything else, and for numbers too large to be added up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < TOO_LARGE else None


def whole(value: Any) -> int | None:
    """A count or a step of an event; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
        return None
    return value


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file but for those of over `LONGEST_LINE` bytes."""
    while line := file.readline(LONGEST_LINE):
        if len(line) > 1 and line.endswith(b"\n"):
            yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)


def _schema(hint: Any) -> CoreSchema:
    """How pydantic-core reads a value of this annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        fields = get_type_hints(hint, include_extras=True)
        return cs.typed_dict_schema(
            {name: _field(name, field) for name, field in fields.items() if name != "held"}
        )
    if NoneType in inner:
        return cs.nullable_schema(_schema(inner[0]))
    if origin is Literal:
        return cs.literal_schema(list(inner))
    if origin is list:
        return cs.list_schema(_item(inner[0]))
    if origin is dict:
        return cs.dict_schema(cs.str_schema(), _item(inner[1]))
    plain: dict[Any, CoreSchema] = {
        Any: cs.any_schema(),
        bool: cs.bool_schema(strict=True),
        float: cs.float_schema(strict=True, allow_inf_nan=False, gt=-TOO_LARGE, lt=TOO_LARGE),
        int: cs.int_schema(strict=True, ge=0, lt=LARGEST),
        str: cs.str_schema(strict=True),
    }
    return plain[hint]


def _field(name: str, hint: Any) -> cs.TypedDictField:
    """A field that is left out where its value is wrong, unless events cannot do without it."""
    if get_origin(hint) is Required:
        return cs.typed_dict_field(_schema(get_args(hint)[0]))
    schema = _schema(hint)
    if name != "schema":
        schema = cs.with_default_schema(schema, on_error="omit")
    return cs.typed_dict_field(schema, required=False)


def _item(hint: Any) -> CoreSchema:
    """An item of a list or object: None where its value is wrong, or left out if None is not
    allowed."""
    if NoneType in get_args(hint):
        return cs.with_default_schema(_schema(hint), default=None, on_error="default")
    return cs.with_default_schema(_schema(hint), on_error="omit")


def _validator(*kinds: Any) -> SchemaValidator:
    by_tag = {get_args(get_type_hints(kind)["kind"])[0]: _schema(kind) for kind in kinds}
    schema = cs.tagged_union_schema(by_tag, "kind")
    return SchemaValidator(schema, cs.CoreConfig(cache_strings="keys"))


_VALIDATOR = _validator(*get_args(Event))
_HEADER = SchemaValidator(_schema(Header))
_SCHEMA_1 = SchemaValidator(cs.typed_dict_schema({"layers": _field("layers", list[_Schema1Layer])}))
