"""The recipe: everything that decides what a run computes, as one validated tree.

A recipe is YAML. Every field is documented where it is declared and nowhere else: here, in
`moe.py`, `routers.py`, `similarity.py` and `parallel.py`; `simsmoe show RECIPE --fields` prints
these texts.
Unknown keys, wrong types and contradictions are errors, and all of them are reported together.

Nothing in this package imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from simsmoe_cli.recipe.huggingface import LOSS_WEIGHTS, HuggingFaceSettings
from simsmoe_cli.recipe.moe import MoESettings
from simsmoe_cli.recipe.parallel import ParallelSettings
from simsmoe_cli.recipe.routers import RouterSections, RouterSettings
from simsmoe_cli.recipe.schedule import Schedule
from simsmoe_cli.recipe.section import Section
from simsmoe_cli.recipe.similarity import SimilaritySettings

MOST_STEPS = 1_000_000_000
# A name or path: anything printable, since it appears in messages and names of folders.
Location = Annotated[str, Field(max_length=4_000, pattern=r"^\P{C}*$")]


class ModelSettings(Section):
    """The backbone: a pattern of residual sub-layers, repeated."""

    pattern: str = Field(
        "sg",
        max_length=1_000,
        pattern="^[sgf]+$",
        description="sub-layers of one repeat: s self-attention, g mixture of experts, f dense "
        "feed-forward",
    )
    repeats: int = Field(4, ge=1, le=1_000, description="how often the pattern is repeated")
    width: int = Field(128, ge=1, le=1_000_000, description="model width D")
    heads: int = Field(4, ge=1, le=1_000_000, description="attention heads; must divide width")
    attention: Literal["relative", "rope"] = Field(
        "rope",
        description="relative: learned relative positions, with memory carried over from earlier "
        "blocks; rope: rotary positions with a causal sliding window",
    )
    span: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="positions a query attends to: those before it (relative), or the sliding "
        "window, its own position included (rope)",
    )
    rope_base: float = Field(10000.0, gt=1, le=1e12, description="base of the rotary frequencies")
    ffn_hidden: int = Field(
        512, ge=1, le=10_000_000, description="hidden width of a dense sub-layer (f)"
    )
    activation: Literal["relu", "swiglu"] = Field(
        "swiglu", description="activation function of dense sub-layers and experts"
    )
    norm: Literal["layernorm", "rmsnorm"] = Field("rmsnorm", description="normalisation layer")
    norm_position: Literal["pre", "post"] = Field(
        "pre", description="post: LN(h + f(h)), as the papers do; pre: h + f(LN(h))"
    )
    moe_norm: Literal["single", "double"] = Field(
        "single",
        description="double: a second residual connection and norm inside the MoE sub-layer, as in "
        "the published code",
    )
    bias: bool = Field(
        False, description="biases in experts, dense sub-layers, router and output layer"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability, everywhere")
    tie_embeddings: bool = Field(
        False, description="the output layer shares the embedding's weights"
    )

    @property
    def sublayers(self) -> str:
        """The letters of all sub-layers, from input to output: the pattern, repeated."""
        return self.pattern * self.repeats


class DataSettings(Section):
    """The training data."""

    corpus: Location = Field("pystdlib", description="prepared corpus: its name or folder")
    tokenizer: Literal["bytes", "chars", "words", "sentencepiece", "huggingface"] = Field(
        "bytes",
        description="tokenizer the corpus must have been prepared with; huggingface: that of a "
        "model's folder, given by prepare-data --tokenizer FOLDER and kept in the corpus",
    )
    attend_within_documents: bool = Field(
        False,
        description="attention and carried memory end where a document ends, for a corpus that was "
        "prepared from documents; false: they read on, over the end token",
    )


class TrainSettings(Section):
    """Optimisation, and how often things happen (in steps; 0 means never)."""

    steps: int = Field(1000, ge=1, le=MOST_STEPS, description="optimizer steps")
    batch: int = Field(16, ge=1, le=1_000_000, description="sequences per step; texts of a task")
    micro_batches: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="parts a batch is split into, computed one after the other; must divide batch",
    )
    block: int = Field(256, ge=1, le=65_536, description="tokens per sequence")
    order: Literal["auto", "contiguous", "shuffled"] = Field(
        "auto",
        description="contiguous: each sequence continues where it ended in the step before, as "
        "carried memory needs; shuffled: all blocks shuffled; auto: contiguous for relative "
        "attention, shuffled for rope",
    )
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="optimizer; both are fused")
    lr: float = Field(1e-3, gt=0, le=1e12, description="peak learning rate")
    betas: list[float] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="Adam's decay rates"
    )
    eps: float = Field(1e-8, gt=0, le=1, description="Adam's epsilon")
    weight_decay: float = Field(
        0.0, ge=0, le=1e6, description="weight decay, of matrices only; decoupled for adamw"
    )
    schedule: Literal["constant", "multistep", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, le=MOST_STEPS, description="steps of linear warm-up")
    final_lr_ratio: float = Field(
        0.0, ge=0, le=1, description="linear, cosine: last learning rate / peak learning rate"
    )
    milestones: list[Annotated[int, Field(le=MOST_STEPS)]] = Field(
        [], max_length=1_000, description="multistep: steps at which the learning rate falls"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: factor at each milestone")
    clip_norm: float = Field(
        0.0, ge=0, le=1e12, description="gradients are clipped to this norm; 0: no clipping"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of weights, dropout and sampling")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 autocast where the device supports it and it is faster, else fp32",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile; auto: on for CUDA in one process; off in fine-tuning, whose "
        "batches differ in shape, in several processes, and for Hugging Face models",
    )
    log_every: int = Field(10, ge=1, le=MOST_STEPS, description="steps between train events")
    validate_every: int = Field(
        250,
        ge=0,
        le=MOST_STEPS,
        description="steps between validations, which find the best weights; with 0 the last "
        "weights are tested",
    )
    validate_blocks: int = Field(
        20,
        ge=0,
        le=MOST_STEPS,
        description="blocks of each stream (eval.streams) that a validation reads during training; "
        "0: the whole split",
    )
    checkpoint_every: int = Field(
        500,
        ge=0,
        le=MOST_STEPS,
        description="steps between checkpoints; there is one of the last step in any case",
    )
    keep_last: int = Field(
        2, ge=1, le=1_000_000, description="checkpoints kept; older ones are deleted"
    )
    probe_every: int = Field(
        250, ge=0, le=MOST_STEPS, description="steps between probes of router and experts"
    )
    probe_tokens: int = Field(
        1024,
        ge=32,
        le=10_000_000,
        description="held-out tokens read by a probe; for CKA on shared tokens two experts must "
        "share 32: in the mean pair with 32 N^2 / (K (K - 1)) tokens, N experts, K for each token",
    )


class EvalSettings(Section):
    """Evaluation on a whole split, every token once."""

    streams: int = Field(
        8, ge=1, le=1_000_000, description="contiguous parts of the split read side by side"
    )
    overlap: int = Field(
        0,
        ge=0,
        le=65_536,
        description="first tokens of each block that only give context and are not scored; must "
        "be 0 for relative attention",
    )
    final_blocks: int = Field(
        0,
        ge=0,
        le=MOST_STEPS,
        description="blocks of each stream of the test split read at the end of training; 0: the "
        "whole split",
    )


class FinetuneSettings(Section):
    """Fine-tuning a pre-trained model on a classification task, with `simsmoe finetune`.

    The model, its experts and its router are those of the checkpoint; batch, block (the longest
    text, in tokens), optimizer and schedule are those of the train section, whose `steps` follow
    from the epochs.
    """

    task: Location = Field(
        "",
        description="prepared task: its name or folder; empty: a language model is trained",
    )
    epochs: int = Field(5, ge=1, le=1_000_000, description="passes over the training examples")
    examples: int = Field(
        0, ge=0, le=MOST_STEPS, description="training examples to use, drawn by the seed; 0: all"
    )
    keep: Literal["start", "end"] = Field(
        "start", description="which end of a text longer than train.block tokens is kept"
    )
    pooling: Literal["last", "mean"] = Field(
        "last",
        description="what the classifier reads: the hidden state of a text's last token, or the "
        "mean over its tokens",
    )
    drop_last_layer: bool = Field(
        False,
        description="leave out the last attention sub-layer of the pre-trained model and "
        "everything after it, as the paper does",
    )


class CommonSections(Section):
    """The fields of a recipe that come before the sections of routers."""

    name: str = Field(
        "custom",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="name of the recipe, of letters, digits, '.', '_' and '-'; that of its file if "
        "left out",
    )
    description: str = Field("", max_length=1_000, description="the recipe in one line")
    source: str = Field("", max_length=1_000, description="paper or code the settings come from")
    huggingface: HuggingFaceSettings = Field(default_factory=HuggingFaceSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    moe: MoESettings = Field(default_factory=MoESettings)
    similarity: SimilaritySettings = Field(default_factory=SimilaritySettings)
    data: DataSettings = Field(default_factory=DataSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    parallel: ParallelSettings = Field(default_factory=ParallelSettings)


class Recipe(RouterSections, CommonSections):
    """One experiment: the common sections, then one for every router that has settings."""

    @property
    def router_settings(self) -> RouterSettings:
        """The section of the chosen router; an empty one for a router without settings."""
        return self.of_router(self.moe.router)

    @property
    def model_kind(self) -> str:
        """The kind of its model, as `registry.MODELS` names it."""
        return "huggingface" if self.huggingface.used else "simsmoe"

    @property
    def idle_sections(self) -> set[str]:
        """Sections that are not used: of routers that are not chosen, `finetune` in pre-training,
        and either `huggingface`, or `model` and those of all routers."""
        idle = {"finetune"} if not self.finetune.task else set()
        if self.huggingface.used:
            return idle | {"model", *RouterSections.model_fields}
        return idle | {"huggingface"} | self.idle(self.moe.router)

    @model_serializer(mode="wrap")
    def _without_other_model(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields, without those that describe a model of the other kind."""
        fields: dict[str, Any] = dump(self)
        if not self.huggingface.used:
            fields.pop("huggingface", None)
            return fields
        for section in ("model", *RouterSections.model_fields):
            fields.pop(section, None)
        if "moe" in fields:
            fields["moe"] = {name: fields["moe"][name] for name in LOSS_WEIGHTS}
        return fields

    @property
    def loss_weights(self) -> dict[str, float | Schedule]:
        """The coefficient of every auxiliary loss, by name."""
        router, balance = self.router_settings, self.moe.balance_weight
        own = self.huggingface if self.huggingface.used else router
        return {
            "balance": own.balance_weight if balance == "auto" else balance,
            "z": self.moe.z_weight,
            "similarity": self.similarity.weight,
            **router.loss_weights,
        }

    @property
    def shuffles_blocks(self) -> bool:
        """Whether training reads blocks shuffled, with `train.order` "auto" decided."""
        if self.train.order == "auto":
            return self.model.attention == "rope"
        return self.train.order == "shuffled"
