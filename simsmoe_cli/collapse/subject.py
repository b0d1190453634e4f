"""The subject of a report: the model, the text, the settings, and the history of its training.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | None
Count = Annotated[int, Field(ge=0)]


class Facts(BaseModel):
    """The base of everything in a report's JSON: read-only, with no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Subject(Facts):
    """The model that was measured."""

    kind: Literal["run", "huggingface"]
    name: str = Field(description="of the run folder, or of the model's folder")
    recipe: str = Field(description="the recipe's name; a Hugging Face model's type")
    router: str
    similarity: str = Field(description="preset of similarity learning; 'none' without")
    settings: dict[str, Any] = Field(description="the resolved recipe, or the model's config")
    parameters: int
    checkpoint: str = Field(
        description="which was asked for: best, last or a step; empty: not a run"
    )
    step: int | None = Field(description="optimizer steps it was trained for; None: not known")
    seed: int | None
    simsmoe: str = Field(description="version that measured")
    torch: str = Field(description="version that measured")


class Text(Facts):
    """The text that went through the model, and how well it was predicted."""

    corpus: str
    split: str
    notes: list[str] = Field(description="such as: a prefix of enwik8, not all of it")
    unit: str = Field(description="what a token is: byte, character, word, piece, token")
    tokens: int = Field(
        description="tokens read; routing, load and loss are measured on all of them"
    )
    rows: int = Field(
        description="tokens among them that all experts saw; similarity is measured on these"
    )
    block: int = Field(description="tokens a model sees at once")
    scored: int = Field(description="tokens predicted; of a classifier, texts classified")
    loss_nats: Number = Field(description="mean cross-entropy of a prediction")
    bpc: Number = Field(
        description="bits per token where a token is a byte or a character; None of a classifier"
    )
    perplexity: Number = Field(description="None of a classifier")
    accuracy: Number = Field(
        None, description="share of texts classified correctly; None where tokens are predicted"
    )
    choices: Count | None = Field(
        None,
        description="how many choices a prediction has: the vocabulary's size, or the classes",
    )
    distinct: Count | None = Field(None, description="different tokens among those read")
    frequency_nats: Number = Field(
        None,
        description="mean cross-entropy of guessing each token read by how often it occurs among "
        "the others; a model that reads the text must do better",
    )


class Settings(Facts):
    """How the numbers were made."""

    level: float = Field(description="of all intervals, as 0.95")
    resamples: int = Field(description="of the bootstrap")
    blocks: int = Field(description="runs of neighbouring rows the bootstrap draws from")
    rbf_rows: int = Field(
        description="rows of the RBF CKA, evenly spread over the rows; in some layers perhaps more"
    )
    rank_rows: int = Field(description="rows of the effective rank, likewise")
    dead_below: float = Field(description="share of a fair load below which an expert is dead")
    precision: str = Field("fp32", description="what the model computed in: fp32, bf16, fp16")
    seed: int = Field(description="of bootstrap, shuffles and permutations")


class LossPoint(Facts):
    """Loss at one step, as training logged it."""

    step: int
    split: str = Field(description="train, valid or test")
    loss_nats: Number
    bpc: Number
    accuracy: Number = Field(None, description="of a classifier")
    best: bool = Field(False, description="the best validation so far")


class ProbePoint(Facts):
    """A probe of training: each list has one entry per layer."""

    step: int
    cka_mean: list[Number] = Field([], description="mean debiased CKA over pairs")
    load_cv: list[Number] = []
    dead: list[Count | None] = Field(
        [], description="how many experts were dead; None: too few routed slots to judge"
    )
    drift: list[Number] = Field(
        [],
        description="share of the load that moved to other experts since the probe before: half "
        "the sum of absolute differences; None at the first",
    )


class History(Facts):
    """Losses and probes of the training, from events.jsonl."""

    losses: list[LossPoint] = []
    probes: list[ProbePoint] = []
    probe_tokens: int | None = Field(None, description="tokens of a probe, of the validation split")
    total_steps: int | None = None
