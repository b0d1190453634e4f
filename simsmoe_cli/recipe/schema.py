"""The recipe: everything that decides what a run computes, as one validated tree.

A recipe is YAML. Every field is documented here and nowhere else; `simsmoe show` prints these
texts. Unknown keys, wrong types and contradictions are errors, and all of them are reported
together. Importing this module never imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field

from simsmoe_cli.recipe.routers import (
    CompeteSMoESettings,
    ExpertChoiceSettings,
    GShardSettings,
    HyperRouterSettings,
    LossFreeSettings,
    ReMoESettings,
    RouterSettings,
    SMoEDropoutSettings,
    StableMoESettings,
    SwitchSettings,
    XMoESettings,
)
from simsmoe_cli.recipe.schedule import Schedule
from simsmoe_cli.recipe.section import Section
from simsmoe_cli.recipe.similarity import SimilaritySettings

MOST_STEPS = 1_000_000_000
Coefficient = Annotated[float, Field(ge=0, le=1e6)]
# A name or path; anything printable, as it stands in messages and folders.
Location = Annotated[str, Field(max_length=4_000, pattern=r"^\P{C}*$")]


class ModelSettings(Section):
    """The backbone: a pattern of residual sub-layers, repeated."""

    pattern: str = Field(
        "sg",
        max_length=1_000,
        pattern="^[sgf]+$",
        description="sub-layers of one repeat: s self-attention, g mixture of experts, f dense",
    )
    repeats: int = Field(4, ge=1, le=1_000, description="how often the pattern is repeated")
    width: int = Field(128, ge=1, le=1_000_000, description="model width D")
    heads: int = Field(4, ge=1, le=1_000_000, description="attention heads; they divide the width")
    attention: Literal["relative", "rope"] = Field(
        "rope",
        description="relative: a learned position table over a span of carried memory; "
        "rope: rotary positions, causal, sliding window",
    )
    span: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="positions a query sees: the span before it (relative), "
        "the sliding window with itself (rope)",
    )
    rope_base: float = Field(10000.0, gt=1, le=1e12, description="base of the rotary frequencies")
    ffn_hidden: int = Field(
        512, ge=1, le=10_000_000, description="hidden width of a dense sub-layer (f)"
    )
    activation: Literal["relu", "swiglu"] = Field(
        "swiglu", description="of dense sub-layers and experts"
    )
    norm: Literal["layernorm", "rmsnorm"] = Field("rmsnorm", description="kind of normalisation")
    norm_position: Literal["pre", "post"] = Field(
        "pre", description="post: LN(h + f(h)), as the papers do; pre: h + f(LN(h))"
    )
    moe_norm: Literal["single", "double"] = Field(
        "single",
        description="double: the MoE sub-layer has a residual and a norm of its own inside "
        "(published code)",
    )
    bias: bool = Field(
        False, description="biases on experts, dense sub-layers, router and output layer"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability everywhere")
    tie_embeddings: bool = Field(False, description="output layer shares the embedding's weights")

    @property
    def sublayers(self) -> str:
        """The letter of every sub-layer of the model, from input to output: pattern x repeats."""
        return self.pattern * self.repeats


class MoESettings(Section):
    """The mixture-of-experts sub-layers."""

    experts: int = Field(8, ge=1, le=8_192, description="experts per layer, N")
    hidden: int = Field(256, ge=1, le=10_000_000, description="hidden width of an expert, H")
    top_k: int = Field(2, ge=1, le=8_192, description="experts per token, K")
    router: str = Field("smoe", max_length=100, description="router; `simsmoe list routers`")
    backend: Literal["auto", "grouped", "loop", "fastmoe"] = Field(
        "auto",
        description="how experts are computed (`simsmoe list experts`); auto: grouped where "
        "widths are multiples of 8, else loop",
    )
    init: Literal["linear", "published"] = Field(
        "linear",
        description="linear: each expert as nn.Linear would be; published: the stacked weight as "
        "one kernel, whose deviation is far too small",
    )
    balance_weight: Coefficient | Literal["auto"] = Field(
        "auto",
        description="coefficient of the balance loss; auto: 0.01, and 0.3 for stablemoe in two "
        "stages",
    )
    z_weight: float = Field(
        0.0, ge=0, le=1e6, description="coefficient of the router z-loss; 1e-3 is usual"
    )


class DataSettings(Section):
    """What is read."""

    corpus: Location = Field("pystdlib", description="a prepared corpus: its name or its folder")
    tokenizer: Literal["bytes", "chars", "words", "sentencepiece"] = Field(
        "bytes", description="tokenizer the corpus must have been prepared with"
    )


class TrainSettings(Section):
    """Optimisation, and how often things happen (in steps; 0 means never)."""

    steps: int = Field(1000, ge=1, le=MOST_STEPS, description="optimizer steps")
    batch: int = Field(16, ge=1, le=1_000_000, description="streams, each one block a step")
    micro_batches: int = Field(
        1, ge=1, le=1_000_000, description="parts a batch is computed in; divides batch"
    )
    block: int = Field(256, ge=1, le=65_536, description="tokens of a stream per step")
    order: Literal["auto", "contiguous", "shuffled"] = Field(
        "auto",
        description="blocks of a stream one after the other, as carried memory needs, or all "
        "blocks shuffled; auto: contiguous for relative attention, shuffled for rope",
    )
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="both fused")
    lr: float = Field(1e-3, gt=0, le=1e12, description="peak learning rate")
    betas: list[float] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="Adam's decay rates"
    )
    eps: float = Field(1e-8, gt=0, le=1, description="Adam's epsilon")
    weight_decay: float = Field(0.0, ge=0, le=1e6, description="decoupled for adamw; matrices only")
    schedule: Literal["constant", "multistep", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, le=MOST_STEPS, description="steps of linear warm-up")
    final_lr_ratio: float = Field(0.0, ge=0, le=1, description="linear, cosine: last lr / peak lr")
    milestones: list[Annotated[int, Field(le=MOST_STEPS)]] = Field(
        [], max_length=1_000, description="multistep: steps at which lr is multiplied"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: the factor")
    clip_norm: float = Field(
        0.0, ge=0, le=1e12, description="largest gradient norm; 0: no clipping"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of weights, dropout and sampling")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where it is computed and faster, else fp32"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: on for CUDA, off in fine-tuning, whose batches differ in shape"
    )
    log_every: int = Field(10, ge=1, le=MOST_STEPS, description="steps between train events")
    validate_every: int = Field(250, ge=0, le=MOST_STEPS, description="steps between validations")
    validate_blocks: int = Field(
        20,
        ge=0,
        le=MOST_STEPS,
        description="blocks a validation in training reads; 0: the whole split",
    )
    checkpoint_every: int = Field(500, ge=0, le=MOST_STEPS, description="steps between checkpoints")
    keep_last: int = Field(
        2, ge=1, le=1_000_000, description="checkpoints kept; older ones are deleted"
    )
    probe_every: int = Field(
        250, ge=0, le=MOST_STEPS, description="steps between probes of router and experts"
    )
    probe_tokens: int = Field(
        1024, ge=32, le=10_000_000, description="held-out tokens a probe reads"
    )


class EvalSettings(Section):
    """Evaluation of a whole split, every token once."""

    streams: int = Field(
        8, ge=1, le=1_000_000, description="contiguous parts the split is read in at once"
    )
    overlap: int = Field(
        0,
        ge=0,
        le=65_536,
        description="tokens of each block that only give context; not for relative",
    )
    final_blocks: int = Field(
        0,
        ge=0,
        le=MOST_STEPS,
        description="blocks of each stream of the test split that the summary of a training "
        "reads; 0: the whole split",
    )


class FinetuneSettings(Section):
    """Fine-tuning a pre-trained model on a classification task, with `simsmoe finetune`.

    The model, its experts and its router are those of the checkpoint; batch, block (the longest
    text, in tokens), optimizer and schedule are those of the train section, whose `steps` follow
    from the epochs.
    """

    task: Location = Field(
        "",
        description="a prepared task: its name or its folder; empty: a language model is trained",
    )
    epochs: int = Field(5, ge=1, le=1_000_000, description="passes over the training examples")
    examples: int = Field(
        0, ge=0, le=MOST_STEPS, description="training examples used, drawn once by the seed; 0: all"
    )
    keep: Literal["start", "end"] = Field(
        "start", description="what is kept of a text longer than train.block tokens"
    )
    pooling: Literal["last", "mean"] = Field(
        "last",
        description="what the classifier reads: the hidden state of the last token of a text, or "
        "the mean over its tokens",
    )
    drop_last_layer: bool = Field(
        False,
        description="leave out the last attention sub-layer of the pre-trained model and what "
        "follows it, as the paper does",
    )


class Recipe(Section):
    """One experiment."""

    name: str = Field(
        "custom",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="its name, of letters, digits, '.', '_' and '-'; a file's own name if left out",
    )
    description: str = Field("", max_length=1_000, description="one line")
    source: str = Field("", max_length=1_000, description="paper or code the setting comes from")
    model: ModelSettings = Field(default_factory=ModelSettings)
    moe: MoESettings = Field(default_factory=MoESettings)
    similarity: SimilaritySettings = Field(default_factory=SimilaritySettings)
    data: DataSettings = Field(default_factory=DataSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    switch: SwitchSettings = Field(default_factory=SwitchSettings)
    gshard: GShardSettings = Field(default_factory=GShardSettings)
    xmoe: XMoESettings = Field(default_factory=XMoESettings)
    stablemoe: StableMoESettings = Field(default_factory=StableMoESettings)
    smoe_dropout: SMoEDropoutSettings = Field(default_factory=SMoEDropoutSettings)
    hyperrouter: HyperRouterSettings = Field(default_factory=HyperRouterSettings)
    competesmoe: CompeteSMoESettings = Field(default_factory=CompeteSMoESettings)
    loss_free: LossFreeSettings = Field(default_factory=LossFreeSettings)
    remoe: ReMoESettings = Field(default_factory=ReMoESettings)
    expert_choice: ExpertChoiceSettings = Field(default_factory=ExpertChoiceSettings)

    @property
    def router_settings(self) -> RouterSettings:
        """The section of the chosen router; an empty one for a router without settings."""
        found = getattr(self, self.moe.router.replace("-", "_"), None)
        return found if isinstance(found, RouterSettings) else RouterSettings()

    @property
    def idle_sections(self) -> set[str]:
        """Sections of routers that are not chosen, and `finetune` in pre-training."""
        return self.idle_routers | ({"finetune"} if not self.finetune.task else set())

    @property
    def idle_routers(self) -> set[str]:
        """Sections of routers that are not chosen."""
        routers = {
            name for name, section in sections().items() if issubclass(section, RouterSettings)
        }
        return routers - {self.moe.router.replace("-", "_")}

    @property
    def loss_weights(self) -> dict[str, float | Schedule]:
        """The coefficient of every loss besides the task's, by name."""
        balance = self.moe.balance_weight
        if balance == "auto":
            staged = self.moe.router == "stablemoe" and not self.stablemoe.published
            balance = 0.3 if staged else 0.01
        return {
            "balance": balance,
            "z": self.moe.z_weight,
            "similarity": self.similarity.weight,
            **self.router_settings.loss_weights,
        }

    @property
    def shuffles_blocks(self) -> bool:
        """Whether training reads blocks shuffled, `train.order` "auto" decided."""
        if self.train.order == "auto":
            return self.model.attention == "rope"
        return self.train.order == "shuffled"


@dataclass(frozen=True)
class FieldDoc:
    """One field as `simsmoe show --fields` prints it.

    Attributes:
        path: dotted, as `--set` takes it.
        type: in plain words.
        default: value of a field left out (of preset none, for similarity).
        help: the field's documentation.
    """

    path: str
    type: str
    default: Any
    help: str


@functools.cache
def sections() -> dict[str, type[Section]]:
    """The sections of a recipe by name, and the recipe itself under ""."""
    found: dict[str, type[Section]] = {"": Recipe}
    for name, info in Recipe.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = info.annotation
    return found


def fields(recipe: Recipe | None = None) -> Iterator[FieldDoc]:
    """Every field that holds a value, in the order of the schema.

    Args:
        recipe: leave out the sections of routers it does not choose.
    """
    idle = recipe.idle_sections if recipe else set()
    for section, schema in sections().items():
        if section in idle:
            continue
        for name, info in schema.model_fields.items():
            if info.description is not None:
                path = f"{section}.{name}" if section else name
                words = type_in_words(info.annotation)
                yield FieldDoc(path, words, info.get_default(), info.description)


def type_in_words(annotation: Any) -> str:
    """A field's type for people: "whole number", "number or schedule", "one of pre, post"."""
    if annotation == Schedule:
        return "schedule"
    if get_origin(annotation) is Annotated:
        return type_in_words(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f"'{choices[0]}'"
    if get_origin(annotation) is list:
        return f"list of {type_in_words(get_args(annotation)[0])}s"
    if get_args(annotation):
        return listed([type_in_words(part) for part in get_args(annotation)])
    return {int: "whole number", float: "number", bool: "true or false"}.get(annotation, "text")


def listed(choices: list[str]) -> str:
    """Alternatives as a phrase: "a", "a or b", "a, b or c"."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last
