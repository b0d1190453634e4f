"""The events of a run: one class per kind. `event_log.py` writes and parses them.

A run's events.jsonl holds one JSON object per line. Each has ``schema``, ``kind``, ``step`` and
``time``; the classes below are the kinds and document their further fields:

    run_started    `RunStarted`: what is trained; again where a resumed run has other settings
    train          `Train`: means over the steps since the last one, and their speed
    eval           `Eval`: a score on a split
    router         `Router`: the load of the experts, measured by a probe
    similarity     `Similarity`: the similarity of the experts, measured by a probe
    checkpoint     `Checkpoint`: one was taken; its folder has this name once it is complete
    profile        `Profile`: some steps were profiled
    warning        `Warned`: a message for people
    run_finished   `RunFinished`: how the run ended

Readers skip kinds and fields that they do not know, and a torn last line. A resumed run first cuts
the file back to the position of its checkpoint, so readers that follow the file must expect it to
shrink. Values that depend on the clock are only in ``time``, in ``machine`` and in fields that end
in ``_per_s`` or ``_ms``; all other values are equal in two runs with the same seed. Train and
router events fill the file, so their numbers have no more digits than fp32 numbers need to be told
apart.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypeAlias, TypedDict

Number: TypeAlias = float | None  # None, null in JSON: undefined, or not finite


class Stamp(TypedDict, total=False):
    """The fields that the log adds to every event.

    Attributes:
        schema: of the event.
        time: seconds since the epoch when it was written.
    """

    schema: Literal[1, 2]
    time: Number


class Header(Stamp, total=False):
    """The fields of every event; `step` is the number of optimizer steps done."""

    step: Required[int]


class TaskFacts(Stamp, total=False):
    """Fields of `RunStarted` that only some trainings have.

    Attributes:
        task, labels, steps_per_epoch: of a fine-tuned run.
        model: the class of a model that `attach` watches.
        model_folder: where the user's loop saves that model, if known.
        layer_labels: what that model calls its layers with experts.
    """

    task: str
    labels: list[str]
    steps_per_epoch: int
    model: str
    model_folder: str
    layer_labels: list[str]


class SimilarityFacts(Stamp, total=False):
    """Further fields of `RunStarted` with similarity learning.

    Attributes:
        compare_every: experts are compared in the steps whose number is a multiple of this.
        similarity_flops: of similarity learning, as a share of the FLOPs of training without it.
    """

    compare_every: int
    similarity_flops: float


class SettingChange(TypedDict, total=False):
    """A setting that a resumed run changed.

    Attributes:
        setting: its dotted path in the recipe, such as "train.lr".
        before, after: its values up to the step of the event, and from there on.
    """

    setting: Required[str]
    before: Any
    after: Any


class ChangedSettings(Stamp, total=False):
    """A further field of the `RunStarted` of a resumed run.

    Attributes:
        changes: the settings that are other than before.
    """

    changes: list[SettingChange]


class RunStarted(Header, TaskFacts, SimilarityFacts, ChangedSettings, total=False):
    """The start of a run; written again if a resumed run has other settings.

    Attributes:
        name: of the run.
        recipe: the resolved recipe; of a run that `attach` wrote, its section `similarity` alone.
        parameters: of the model.
        tokens_per_step: tokens that one optimizer step reads; for a task, the largest possible
            number.
        total_steps: steps of the whole training.
        unit: the unit that the loss is averaged over: "byte", "character", "word" ..., or "text"
            for a classifier.
        device, precision: of the computation; precision is "fp32" or "bf16".
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
        weight, threshold, check_every, sigma: present values of the settings that have an effect.
    """

    pairs_due: Number
    mean: Number
    weight: Number
    threshold: Number
    check_every: Number
    sigma: Number


class BusyRanks(TypedDict, total=False):
    """How long the ranks of a training work in a step, without waiting for each other.

    Attributes:
        ranks: how many there are.
        slowest: the rank that works longest.
        most, median: its milliseconds, and those of the rank in the middle. On a CPU of a step; on
            a GPU of the optimizer's update.
    """

    ranks: int
    slowest: int
    most: Number
    median: Number


class Machine(TypedDict, total=False):
    """What the process that writes the events takes of its machine.

    Attributes:
        cpu_percent: of its time on processors, since the last train event; 100 is one core.
        ram_mb: memory that it takes, 1 MB = 10^6 bytes.
        gpu_mb, gpu_total_mb: memory of its GPU that is taken, by anybody, and that there is.
        gpu_percent: of the last moment in which the GPU computed, as nvidia-smi shows it.
    """

    cpu_percent: int
    ram_mb: int
    gpu_mb: int
    gpu_total_mb: int
    gpu_percent: int


class Train(Header, total=False):
    """Means over the steps since the last train event, and their speed.

    Attributes:
        loss_nats: of the task, per `unit` of the run.
        bpc: the same in bits, where the unit is a byte or a character; else None. A score on a
            split counts the nats of tokens that end documents, but not these tokens.
        accuracy: share of texts classified correctly; only in a fine-tuned run.
        losses: auxiliary losses by name, nats, before their weights.
        lr: learning rate of the last step.
        grad_norm: before clipping.
        tokens: read since the training began, padding left out.
        similarity: where similarity learning is on.
        metrics: the metrics of routers, by name, averaged over layers and steps.
        tokens_per_s, step_ms: speed of the steps alone, of all ranks together.
        busy_ms: where several ranks train.
        machine: not of a run that an earlier version wrote.
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
    busy_ms: BusyRanks
    machine: Machine


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
        best: whether this is the best validation so far: by accuracy for a classifier, else by
            loss.
    """

    kind: Required[Literal["eval"]]
    best: bool


class RouterLayer(TypedDict, total=False):
    """The load of the N experts of one layer.

    Attributes:
        layer: its index among the layers with experts, from 0.
        load: [N], fraction of the routed slots.
        load_cv: standard deviation of the load over its mean.
        slots: [N], routed slots of training batches since the last event that judged `dead`.
        dead: experts with less than 1% of a fair share of these slots (`run.dead_experts`); None:
            they are too few to judge. Without `slots` (earlier versions) it is judged by `load`.
        entropy_nats: of a token's routing probabilities, mean over tokens.
        entropy_of_mean_nats: of the mean routing probabilities.
    """

    layer: Required[int]
    load: list[Number]
    load_cv: Number
    slots: list[int]
    dead: list[int] | None
    entropy_nats: Number
    entropy_of_mean_nats: Number


class Router(Header, total=False):
    """The load of the experts, measured by a probe."""

    kind: Required[Literal["router"]]
    layers: list[RouterLayer]


class SimilarityLayer(TypedDict, total=False):
    """The similarity of the experts of one layer.

    Attributes:
        layer: its index among the layers with experts, from 0.
        mean: of the pairs where it is defined.
        highest, pair: the most similar pair and its similarity; left out where none is defined.
        shared_mean: mean similarity of pairs on the tokens that were sent to both, over pairs with
            at least `fewest_shared` of them; None: there are none.
        shared_pairs: how many pairs that is.
    """

    layer: Required[int]
    mean: Number
    highest: Number
    pair: list[int]
    shared_mean: Number
    shared_pairs: int


class Schema1Layer(TypedDict, total=False):
    """The matrices of a layer in schema 1, [N][N] each; `shared` holds fractions of tokens."""

    layer: Required[int]
    cka: Any
    shared: Any


class ProbedSimilarity(Stamp, total=False):
    """The similarity of the experts, measured by a probe.

    Attributes:
        measure: name of the similarity measure.
        tokens: of the probe.
        fewest_shared: tokens that a pair must share for a similarity on shared tokens.
        layers: in their order.
        matrices: file of the matrices, from the run folder; see `run.probes`.
        held: never written. Events of schema 1 held the matrices themselves: here they are, as
            `probes.Matrices`, if `parse_event` was asked for them.
    """

    measure: str
    tokens: int
    fewest_shared: int
    layers: list[SimilarityLayer]
    matrices: str
    held: Any


class Similarity(Header, ProbedSimilarity, total=False):
    """The similarity of the experts, measured by a probe."""

    kind: Required[Literal["similarity"]]


class Checkpoint(Header, total=False):
    """A checkpoint was taken.

    It is still being written; its folder has this name once it is complete.

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
    """A message for people."""

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
        status: how; "trained": all steps are done, and it was stopped before it was tested.
        reason: why, in words.
        best_step: step of the best weights; only if it finished, as the test scores.
    """

    kind: Required[Literal["run_finished"]]
    status: Literal["finished", "trained", "stopped", "failed"]
    reason: str
    best_step: int


Event: TypeAlias = (
    RunStarted | Train | Eval | Router | Similarity | Checkpoint | Profile | Warned | RunFinished
)
