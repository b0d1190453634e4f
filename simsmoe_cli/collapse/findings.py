"""What a collapse report says, as data: the JSON file is one `Report`, and this is its schema.

METHODS section 5 lists what is reported. A number that is undefined (an expert that gives the same
output for every token, too few rows) is None here and null in JSON, never 0 and never left out.
Experts are numbered from 0. A layer has a place among the layers with experts (`layer`, from 0, as
in events.jsonl) and a label, which is what the model calls it and what people are shown. Matrices
are [N][N] over the experts of one layer, symmetric.

Importing this module never imports torch, so whoever shows a report need not.

Shapes: N experts, L layers with experts, D model width.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from simsmoe_cli.errors import EXIT_DATA, NotPermitted, UserError, printable
from simsmoe_cli.files.untrusted import Unreadable, parse_json
from simsmoe_cli.run.layer_labels import layer_labels

SCHEMA = 1

Number = float | None
Matrix = list[list[Number]]
Count = Annotated[int, Field(ge=0)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None, or None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


class _Facts(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Estimate(_Facts):
    """A number with what it is worth."""

    value: Number = Field(description="None: undefined")
    low: Number = Field(None, description="lower end of the interval")
    high: Number = Field(None, description="upper end of the interval")
    n: int = Field(description="how many things it was computed from; `of` says which")
    of: str = Field(description="what n counts: 'pairs', 'layers'")
    null_mean: Number = Field(None, description="its mean where nothing is related")
    null_low: Number = Field(
        None, description="2.5 % quantile where nothing is related; None: the null has one end"
    )
    null_high: Number = Field(
        None,
        description="97.5 % quantile where nothing is related; 95 % where null_low is None",
    )
    method: str = Field("", description="how interval and null were made, in words")


class Null(_Facts):
    """What a measure gives for the experts of this layer with the rows of each shuffled apart."""

    mean: Number
    quantile_95: Number
    draws: int = Field(description="pairs of shuffled experts measured")


class Subject(_Facts):
    """What was measured."""

    kind: Literal["run", "huggingface"]
    name: str = Field(description="of the run folder, or of the model's folder")
    recipe: str = Field(description="the recipe's name; a Hugging Face model's type")
    router: str
    similarity: str = Field(description="preset of similarity learning; 'none' without")
    settings: dict[str, Any] = Field(description="the resolved recipe, or the model's config")
    parameters: int
    checkpoint: str = Field(description="what was asked for: best, last, a step; empty: no run")
    step: int | None = Field(description="optimizer steps it was trained for; None: not known")
    seed: int | None
    simsmoe: str = Field(description="version that measured")
    torch: str = Field(description="version that measured")


class Text(_Facts):
    """The text that went through the model, and how well it was predicted."""

    corpus: str
    split: str
    notes: list[str] = Field(description="such as: a prefix of enwik8, not the whole of it")
    unit: str = Field(description="what a token is: byte, character, word, piece, token")
    tokens: int = Field(description="tokens read: routing, load and loss are of all of them")
    rows: int = Field(description="tokens among them that all experts saw: similarity is of them")
    block: int = Field(description="tokens a model sees at once")
    scored: int = Field(description="tokens predicted; of a classifier, texts classified")
    loss_nats: Number = Field(description="mean cross-entropy of a prediction")
    bpc: Number = Field(
        description="bits per token where a token is a byte or a character; None of a classifier"
    )
    perplexity: Number = Field(description="None of a classifier")
    accuracy: Number = Field(
        None, description="share of texts classified right; None where tokens are predicted"
    )
    choices: Count | None = Field(
        None, description="what one prediction chooses from: the vocabulary's size, or the classes"
    )
    distinct: Count | None = Field(None, description="different tokens among those read")
    frequency_nats: Number = Field(
        None,
        description="mean cross-entropy of guessing each token read by how often it occurs among "
        "the others; a model that reads the text must do better",
    )


class Settings(_Facts):
    """How the numbers were made."""

    level: float = Field(description="of all intervals, as 0.95")
    resamples: int = Field(description="of the bootstrap")
    blocks: int = Field(description="runs of neighbouring rows the bootstrap draws from")
    rbf_rows: int = Field(
        description="rows of the RBF CKA, evenly spread over the rows; in some layers perhaps more"
    )
    rank_rows: int = Field(description="the same of the effective rank")
    dead_below: float = Field(description="share of a fair load below which an expert is dead")
    precision: str = Field("fp32", description="what the model computed in: fp32, bf16, fp16")
    seed: int = Field(description="of bootstrap, shuffles and permutations")


class Copies(_Facts):
    """Experts of one layer that have the same weights."""

    experts: list[Count] = Field(min_length=2, description="in ascending order")
    renumbered: bool = Field(description="whether hidden units stand in another order in some")


class LayerFindings(_Facts):
    """One layer with experts."""

    layer: Count = Field(description="its place among the layers with experts, from 0")
    label: str = Field(
        "",
        description="what the model calls it, as `layer_labels.py` says; filled in for reports of "
        "versions that did not write it",
    )
    name: str = Field(description="the module's name in the model")
    experts: int = Field(ge=1, le=1 << 16)
    top_k: Count = Field(description="experts a token is sent to, at most")

    cka: Matrix = Field(description="debiased linear CKA of the outputs on the same rows")
    cka_low: Matrix = Field(description="lower end of the block-bootstrap interval")
    cka_high: Matrix = Field(description="upper end of the block-bootstrap interval")
    cka_null: Null = Field(description="of one pair's debiased linear CKA")
    cka_mean: Estimate = Field(description="mean over defined pairs; null of one pair")
    cka_row_pairs: float = Field(
        1.0,
        description="share of the pairs of rows that the linear CKAs are summed over; below 1 they "
        "are a sample, to bound the time, and unbiased",
    )
    cka_biased: Matrix = Field(description="biased linear CKA of the same rows")
    cka_biased_null: Null
    cka_rbf: Matrix = Field(description="biased CKA, Gaussian kernels of median width")
    cka_rbf_null: Null
    cosine: Matrix = Field(description="mean cosine of the outputs on the same row")
    weight_cosine: Matrix = Field(
        description="cosine of all weights of the expert as one vector, each matrix scaled to norm "
        "1; changes when hidden units are renumbered"
    )
    weight_matched: Matrix = Field(
        description="mean over hidden units of the largest cosine with any unit of the other "
        "expert, a unit being its rows and columns of all matrices; the same when renumbered"
    )
    weight_matched_chance: Number = Field(
        description="weight_matched of units whose entries were shuffled"
    )
    weight_matched_units: int | None = Field(
        None, description="hidden units of each expert that were looked up in the others"
    )
    weight_matched_of_unit: float = Field(
        1.0,
        description="share of a unit's weights that were compared; fewer make chance higher",
    )
    shared: Matrix = Field(description="share of tokens sent to both; diagonal 0")
    cka_shared: Matrix = Field(
        [],
        description="debiased linear CKA on the measured rows sent to both; None where they are "
        "fewer than `cka_on_shared_tokens.FEWEST_SHARED`; empty in reports of earlier versions",
    )

    load: list[Number] = Field(
        description="share of routed slots, sums to 1; None where routing is undefined"
    )
    load_cv: Number = Field(description="standard deviation of load / its mean")
    load_max_over_mean: Number
    dead: list[Count] | None = Field(
        description="experts below Settings.dead_below of a fair load; None: routing is undefined"
    )
    entropy_nats: Number = Field(description="of a token's router softmax, mean over tokens")
    entropy_of_mean_nats: Number = Field(description="of the mean router softmax")
    entropy_max_nats: float = Field(description="ln N, the most both can be")
    effective_rank: list[Number] = Field(
        description="of each expert's centred outputs: exp of the entropy of the singular values "
        "divided by their sum (Roy and Vetterli 2007)"
    )
    effective_rank_max: int = Field(description="the most it can be: min(D, rank_rows - 1)")
    copies: list[Copies] = Field([], description="groups of experts whose weights are equal")
    non_finite: list[Count] = Field(
        [],
        description="experts with a weight that is not finite, or that give an output that is not "
        "finite for an input that is",
    )
    non_finite_inputs: Count = Field(
        0, description="tokens whose input to this layer is not finite; any makes routing undefined"
    )
    non_finite_scores: Count = Field(
        0, description="tokens of finite input whose router scores are not; the same"
    )

    @property
    def number(self) -> int | str:
        """The label as a number, where it is one: what evidence in JSON holds."""
        digits = re.fullmatch(r"0|[1-9][0-9]{0,8}", self.label)
        return int(self.label) if digits else self.label

    @property
    def finite(self) -> bool:
        """Whether inputs, router scores, experts and outputs are finite."""
        return not (self.non_finite or self.non_finite_inputs or self.non_finite_scores)

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        """Every matrix is [N][N], every list [N], and experts are named by their numbers."""
        for name, value in self:
            if name.startswith(("cka", "cosine", "weight", "shared")) and isinstance(value, list):
                empty = name == "cka_shared" and not value
                if not empty and [len(row) for row in value] != [self.experts] * self.experts:
                    raise ValueError(f"{name} is no matrix of {self.experts} experts")
        for name, values in (("load", self.load), ("effective_rank", self.effective_rank)):
            if len(values) != self.experts:
                raise ValueError(f"{name} is not of {self.experts} experts")
        named = [*(self.dead or []), *self.non_finite, *(e for c in self.copies for e in c.experts)]
        if any(expert >= self.experts for expert in named):
            raise ValueError(f"an expert beyond the {self.experts} of the layer")
        return self

    def pairs(self) -> Iterator[tuple[int, int]]:
        """All pairs of experts i < j."""
        return itertools.combinations(range(self.experts), 2)


class Overall(_Facts):
    """Over all layers."""

    cka_mean: Number = Field(description="mean of the layers' means")
    cka_shared: Estimate = Field(
        Estimate(value=None, n=0, of="pairs"),
        description="mean CKA on tokens sent to both experts, over the pairs with enough of them",
    )
    pearson: Estimate = Field(description="of shared tokens and debiased CKA over all pairs")
    spearman: Estimate = Field(description="the same of ranks")
    depth: Estimate = Field(description="Spearman of a layer's number and its mean CKA")


class Difference(_Facts):
    """|E_i(x) - E_j(x)| of two experts on some tokens x (Fig. 5).

    The most alike pair of live experts. Where two runs are compared it is one pair in both, that of
    the run where it is more alike, unless it is missing or undefined in the other.
    """

    layer: Count = Field(description="its place among the layers with experts, from 0")
    experts: tuple[Count, Count]
    cka: float
    rows: list[int] = Field(description="which of the measured rows: one per line of `values`")
    labels: list[str] = Field(description="the tokens x as text; empty where not known")
    features: list[tuple[int, int]] = Field(
        description="dimensions [first, end) whose mean is one column of `values`"
    )
    values: list[list[float]] = Field(
        description="[rows][features], in units of the root mean square of both experts' outputs: "
        "0 the same, about 1.4 unrelated"
    )
    mean: float = Field(description="root mean square difference over all rows and dimensions")

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        """A line of values for each row, a value in it for each group of dimensions."""
        if [len(line) for line in self.values] != [len(self.features)] * len(self.rows):
            raise ValueError("values are not of rows and features")
        return self


class LossPoint(_Facts):
    """Loss at one step, as training logged it."""

    step: int
    split: str = Field(description="train, valid or test")
    loss_nats: Number
    bpc: Number
    accuracy: Number = Field(None, description="of a classifier")
    best: bool = Field(False, description="the best validation so far")


class ProbePoint(_Facts):
    """A probe of training: each list has one entry per layer."""

    step: int
    cka_mean: list[Number] = Field([], description="mean debiased CKA over pairs")
    load_cv: list[Number] = []
    dead: list[int] = Field([], description="how many experts were dead")
    drift: list[Number] = Field(
        [],
        description="share of the load that moved to other experts since the probe before: half "
        "the sum of absolute differences; None at the first",
    )


class History(_Facts):
    """What events.jsonl says of the training."""

    losses: list[LossPoint] = []
    probes: list[ProbePoint] = []
    probe_tokens: int | None = Field(None, description="tokens of a probe, of the validation split")
    total_steps: int | None = None


class Findings(_Facts):
    """Everything measured on one set of weights."""

    subject: Subject
    text: Text
    settings: Settings
    layers: list[LayerFindings] = Field(min_length=1)
    overall: Overall
    difference: Difference | None = Field(description="None: no pair is defined")
    history: History

    @model_validator(mode="before")
    @classmethod
    def _with_labels(cls, found: Any) -> Any:
        """Reports of versions that wrote no labels get those of the modules' names."""
        layers = found.get("layers") if isinstance(found, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            return found
        names = [layer.get("name") for layer in layers]
        if all(layer.get("label") for layer in layers) or not all(
            isinstance(n, str) for n in names
        ):
            return found
        labels = layer_labels(names)
        layers = [
            layer if layer.get("label") else {**layer, "label": label}
            for layer, label in zip(layers, labels, strict=True)
        ]
        return {**found, "layers": layers}

    @model_validator(mode="after")
    def _each_layer_once(self) -> Self:
        places = [layer.layer for layer in self.layers]
        if places != sorted(set(places)):
            raise ValueError("layers are not in their order, each once")
        if len({layer.label for layer in self.layers}) < len(places):
            raise ValueError("two layers have one label")
        if self.difference is not None:
            layer = self.layer_at(self.difference.layer)
            if layer is None or max(self.difference.experts) >= layer.experts:
                raise ValueError("the difference is of experts that are not there")
        return self

    def layer_at(self, place: int) -> LayerFindings | None:
        """The layer at a place among those with experts; None where it was not measured."""
        return next((layer for layer in self.layers if layer.layer == place), None)


class Sentence(_Facts):
    """One statement of the verdict and the numbers behind it."""

    text: str
    tone: Literal["good", "note", "warning", "bad"]
    evidence: dict[str, float | int | str | list[int | str] | None] = Field(
        {}, description="numbers the sentence rests on, by name"
    )


class Verdict(_Facts):
    """The report in words; `verdict.py` says from which thresholds."""

    level: Literal["healthy", "partly alike", "collapsed", "undefined"]
    headline: str
    sentences: list[Sentence]


class Report(_Facts):
    """The JSON file."""

    schema_version: int = SCHEMA
    findings: list[Findings] = Field(
        min_length=1, description="one per checkpoint, oldest first; the verdict is on the last"
    )
    against: Findings | None = Field(None, description="the run compared with")
    verdict: Verdict

    @property
    def main(self) -> Findings:
        """What the report is about: the last checkpoint measured."""
        return self.findings[-1]

    def to_json(self) -> str:
        """The file's text: every number, undefined ones as null."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "") -> Report:
        """The report of a file's text.

        Raises:
            UserError: it is none, or one of another version of the schema.
        """
        try:
            found = parse_json(text.encode() if isinstance(text, str) else text)
            if not isinstance(found, dict) or "schema_version" not in found:
                raise Unreadable("has no schema_version")
            version = found["schema_version"]
            if version != SCHEMA:
                raise UserError(
                    f"a report of schema {printable(version)}, and this simsmoe reads {SCHEMA}",
                    where=where,
                    hint="Write it again with `simsmoe collapse-report`.",
                    code=EXIT_DATA,
                )
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            why = f"{printable(place)}: {printable(first['msg'], 160)}"
        except Unreadable as error:
            why = f"the file {error}"
        except (ValueError, KeyError, TypeError, RecursionError):
            why = "its values contradict each other"
        raise UserError(
            f"this is not a collapse report ({why})",
            where=where,
            hint="Write one with `simsmoe collapse-report`.",
            code=EXIT_DATA,
        )

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in a file."""
        try:
            content = path.read_bytes()
        except PermissionError:
            raise NotPermitted(path) from None
        except OSError as error:
            raise UserError(
                f"cannot read the report: {error.strerror}", where=str(path), code=EXIT_DATA
            ) from None
        return cls.from_json(content, str(path))
