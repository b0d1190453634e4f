"""Any Hugging Face mixture of experts as a source: a local folder of weights and a text.

`model_folder.py` checks the folder, `model_loading.py` opens it, `expert_layers.py` says which
layers are found and `expert_calls.py` what is read of them. Weights are read from safetensors
alone, in the precision they are stored in; nothing is downloaded, and no code of the folder is run.

Shapes: B windows, M block, T tokens, D width, N experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli import __version__
from simsmoe_cli.attach.expert_calls import LayerRecorder, Routed, recording
from simsmoe_cli.attach.find_layers import ExpertLayer, find_expert_layers, no_experts
from simsmoe_cli.collapse.findings import Subject
from simsmoe_cli.collapse.sources.base import Batch, LayerSpec, Listener, Reading, Size, WholeSource
from simsmoe_cli.collapse.sources.evaluation_windows import evaluation_windows, tokens_per_batch
from simsmoe_cli.collapse.sources.huggingface.folder import ModelFolder, read_model_folder
from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LayerWalk
from simsmoe_cli.collapse.sources.huggingface.layer_weights import LayerWeights
from simsmoe_cli.collapse.sources.huggingface.loading import (
    Loaded,
    StrangeWeights,
    foreign_code,
    load_model,
    settings_of,
    silent_stderr,
    transformers_module,
)
from simsmoe_cli.data.streams import IGNORED, Tokens
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError, printable

BLOCK = 512
TEXT_BYTES = 2**23  # of a text file; more is not needed for a report
MANY_UNKNOWN = 0.1  # share of a text's tokens
TOP_K_NAMES = ("num_experts_per_tok", "moe_top_k", "num_experts_per_token", "moe_k", "top_k")
CHOSEN_NAMES = (*TOP_K_NAMES[:-1], "moe_topk", "top_k_experts")  # top_k may be of sampling
VOCABULARY_NAMES = ("vocab_size", "n_vocab", "padded_vocab_size")
WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


class HuggingFaceSource(WholeSource):
    """A model of transformers, or one that is called the same way; see `open_huggingface`.

    Args:
        model: called with `input_ids` [B, M]; gives logits [B, M, V].
        tokens: the text, ids.
        tokenizer: with `decode`; None where tokens have no text.
        top_k: K of listed experts whose router gives logits alone.
        vocab_size: V; None: as the subject's settings have it.
        predicts: whether its logits are of the next token; else no loss is measured.
        both_stacks: whether it is an encoder and a decoder, which then read the same text.
        facts: the fields of a `Source`, without `layers`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tokens,
        tokenizer: Any = None,
        top_k: int | None = None,
        *,
        vocab_size: int | None = None,
        predicts: bool = True,
        both_stacks: bool = False,
        **facts: Any,
    ):
        self.found = find_expert_layers(model)
        if not self.found:
            raise no_experts(model, facts["subject"].name)
        super().__init__(
            layers=[LayerSpec(layer.name, layer.number) for layer in self.found], **facts
        )
        self.watched = [LayerRecorder(layer, top_k) for layer in self.found]
        self.model = model.eval()
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.predicts = predicts
        self.both_stacks = both_stacks
        self.vocab_size = vocab_size or int(self.subject.settings.get("vocab_size") or 0)

    @property
    def size(self) -> Size:
        weights = [layer.hidden_units() for layer in self.found]
        return Size.of(self.model, weights, self.watched[0].top_k, self.vocab_size)

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        first = next(self.model.parameters())
        together = tokens_per_batch(self.vocab_size)
        for inputs, targets, measured in evaluation_windows(
            self.tokens, self.block, tokens, rows, carries_memory=False, together=together
        ):
            with torch.no_grad():
                yield self._run(inputs.to(first.device), targets.to(first.device), measured)

    def _run(self, inputs_BM: Tensor, targets_BM: Tensor, measured: bool) -> Batch:
        where = self.subject.name
        more = {"decoder_input_ids": inputs_BM} if self.both_stacks else {}
        with recording(self.watched), foreign_code("this model cannot be run", where):
            output = self.model(input_ids=inputs_BM, **more, **self._without_cache())
        real_T = targets_BM.flatten() != IGNORED
        with foreign_code("the experts of this model cannot be run", where):
            layers = [self._result(place, real_T) for place in range(len(self.watched))]
        ids_T = inputs_BM.flatten()[real_T]
        if not self.predicts:
            return Batch(ids_T, layers, measured, 0.0, 0)
        nats = F.cross_entropy(
            output.logits.flatten(0, 1).float(),
            targets_BM.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        return Batch(
            ids_T,
            layers,
            measured,
            nats.item(),
            int(real_T.sum().item()),
            choices=output.logits.shape[-1],
        )

    def _result(self, layer: int, real_T: Tensor) -> Routed:
        """What a layer did with the real tokens."""
        return self.watched[layer].result(real_T, self.subject.name)

    def _without_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if hasattr(self.model, "config") else {}

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        with torch.no_grad():
            return self.found[layer].dense(x_TD).float()

    def weights(self, layer: int) -> list[Tensor]:
        return self.found[layer].hidden_units()

    def text_of(self, ids: list[int]) -> list[str]:
        if self.tokenizer is None:
            return []
        with silent_stderr(), foreign_code("the tokenizer cannot decode", self.subject.name):
            return [str(self.tokenizer.decode([token])) for token in ids]


class LayerwiseSource(HuggingFaceSource):
    """As `HuggingFaceSource`, with weights that are read layer by layer.

    Any layer can be asked for its experts at any time; it is read then if it is not at hand.
    """

    def __init__(self, weights: LayerWeights, strange: StrangeWeights, *args: Any, **facts: Any):
        super().__init__(*args, **facts)
        self.strange = strange
        self.layer_weights = weights
        self.decoder_of = [
            next(name for name in weights.layers if f"{layer.name}.".startswith(f"{name}."))
            for layer in self.found
        ]
        self.looked_at: set[str] = set()
        for layer in weights.layers:
            module = weights.model.get_submodule(layer)
            module.forward = self._read_before(layer, module.forward)

    def _read_before(self, layer: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._at_hand(layer)
            return forward(*args, **kwargs)

        return run

    def _at_hand(self, layer: str) -> None:
        with foreign_code("the weights cannot be read", self.subject.name):
            self.layer_weights.load(layer)
        if layer not in self.looked_at:
            self.looked_at.add(layer)
            known = set(self.strange.notes)
            named = self.model.get_submodule(layer).named_parameters()
            self.strange.look_at((f"{layer}.{name}", weight) for name, weight in named)
            self.notes = [note for note in self.notes if note not in known] + self.strange.notes

    @property
    def size(self) -> Size:
        weights = self.layer_weights
        layers = [weights.bytes_of(layer) for layer in weights.layers]
        return replace(super().size, stored=sum(layers), layer=max(layers), dtype=weights.dtype)

    def _result(self, layer: int, real_T: Tensor) -> Routed:
        self._at_hand(self.decoder_of[layer])
        return super()._result(layer, real_T)

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        self._at_hand(self.decoder_of[layer])
        return super().dense(layer, x_TD)

    def weights(self, layer: int) -> list[Tensor]:
        self._at_hand(self.decoder_of[layer])
        return super().weights(layer)

    def release(self, layer: int) -> None:
        if self.layer_weights.at_hand == self.decoder_of[layer]:
            self.layer_weights.release()

    def walk(
        self,
        tokens: int,
        rows: int,
        listener: Listener,
        layers: Collection[int],
        loss: bool = True,
    ) -> Reading:
        return LayerWalk(self, tokens, rows, listener, layers, loss and self.predicts).run()


def open_huggingface(
    folder: Path,
    text: Path | None,
    *,
    device: torch.device,
    token_ids: NDArray[Any] | None = None,
    layerwise: bool = True,
) -> HuggingFaceSource:
    """A model folder and a text.

    Args:
        folder: config.json, weights as safetensors, and a tokenizer unless `token_ids` are given.
        text: UTF-8; its first 8 MiB are encoded with the folder's tokenizer.
        token_ids: instead of a text.
        device: where to compute.

    Raises:
        UserError: transformers is missing, the folder cannot be opened, weights of it are missing,
            it has no experts, or the text is too short or does not fit the model.
    """
    transformers_module()
    files = read_model_folder(folder)
    notes: list[str] = []
    tokenizer, content = None, ""
    if token_ids is None:
        content = _read_text(text, notes)
        tokenizer, token_ids = _encode(content, files, notes)
    if len(token_ids) < 2:
        what = "the text is empty"
        if tokenizer is not None and content.strip():
            what = "the text is too short: it is a single token, or none"
        raise UserError(what, where=str(text or folder), hint="Give a longer text.", code=EXIT_DATA)
    loaded = load_model(files, device, layerwise=layerwise)
    settings = settings_of(loaded.model)
    _require_known_ids(token_ids, loaded, folder)
    layers = find_expert_layers(loaded.model)
    _require_choice(loaded.text_config, layers, folder)
    strange = StrangeWeights()
    strange.look_at(loaded.model.named_parameters())
    notes += loaded.notes
    kind: Any = HuggingFaceSource
    if loaded.weights is not None:
        kind = functools.partial(LayerwiseSource, loaded.weights, strange)
    source: HuggingFaceSource = kind(
        loaded.model,
        np.asarray(token_ids, dtype=np.uint32),
        tokenizer,
        _number(loaded.text_config, TOP_K_NAMES),
        vocab_size=_number(loaded.text_config, VOCABULARY_NAMES),
        predicts=loaded.predicts,
        both_stacks=loaded.both_stacks,
        subject=Subject(
            kind="huggingface",
            name=folder.resolve().name,
            recipe=str(settings.get("model_type", "")),
            router=type(layers[0].router).__name__ if layers else "",
            similarity="none",
            settings=settings,
            parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
            checkpoint="",
            step=None,
            seed=None,
            simsmoe=__version__,
            torch=torch.__version__,
        ),
        corpus=text.name if text is not None else "token ids",
        split="text",
        unit="token",
        block=min(BLOCK, _number(loaded.text_config, WINDOW_NAMES) or BLOCK),
        notes=notes + strange.notes,
    )
    return source


def _require_choice(config: Any, layers: list[ExpertLayer], folder: Path) -> None:
    """Refuse a configuration that gives a token no expert, or more experts than there are."""
    most = max((layer.number + layer.idle for layer in layers), default=0)
    for name in CHOSEN_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and layers and not 1 <= value <= most:
            raise UserError(
                f"config.json says {name} = {printable(value)}, and a layer has {most:,} experts",
                where=str(folder),
                hint="Give the config.json of these weights.",
                code=EXIT_DATA,
            )


def _number(config: Any, names: tuple[str, ...]) -> int | None:
    """The first positive number that a configuration has under one of these names."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _read_text(text: Path | None, notes: list[str]) -> str:
    """The start of a text file; adds what there is to note."""
    if text is None:
        raise UserError(
            "a Hugging Face model comes without text to measure on",
            where="--text",
            hint="Give a text file the model was not trained on.",
            code=EXIT_USAGE,
        )
    try:
        with open(text, "rb") as file:
            content = file.read(TEXT_BYTES)
            size = text.stat().st_size
    except OSError as error:
        raise UserError(
            f"cannot read the text: {error.strerror}", where=str(text), code=EXIT_DATA
        ) from None
    if size > len(content):
        notes.append(f"the first {len(content):,} of the {size:,} bytes of {printable(text.name)}")
    whole = content.decode("utf-8", errors="replace")
    replaced = whole.count("\ufffd")
    if replaced > 1:  # one may be a character cut in two at the end
        notes.append(f"the text is not UTF-8: {replaced:,} places of it were replaced")
    return whole


def _encode(content: str, files: ModelFolder, notes: list[str]) -> tuple[Any, NDArray[np.int64]]:
    """The folder's tokenizer, and the ids of a text."""
    where = str(files.path)
    if not files.has_tokenizer:
        raise UserError(
            "no tokenizer in this folder",
            where=where,
            hint="Copy the model's tokenizer.json, or its other tokenizer files, into it.",
            code=EXIT_DATA,
        )
    transformers = transformers_module()
    with silent_stderr(), foreign_code("transformers cannot open the tokenizer", where):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=False
        )
    with silent_stderr(), foreign_code("the tokenizer cannot encode the text", where):
        ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
        found = np.asarray(ids, dtype=np.int64)
        unknown = getattr(tokenizer, "unk_token_id", None)
    strange = float((found == unknown).mean()) if unknown is not None and len(found) else 0.0
    if strange > MANY_UNKNOWN:
        notes.append(f"{strange:.0%} of the text's tokens are unknown to the tokenizer")
    return tokenizer, found


def _require_known_ids(ids: NDArray[Any], loaded: Loaded, folder: Path) -> None:
    """Refuse ids that the model has no embedding for."""
    with foreign_code("the model has no embeddings of tokens", str(folder)):
        rows = len(loaded.model.get_input_embeddings().weight)  # type: ignore[operator]
    highest, lowest = int(np.max(ids)), int(np.min(ids))
    if highest >= rows or lowest < 0:
        raise UserError(
            f"the tokenizer gives the id {highest if highest >= rows else lowest}, and the model "
            f"knows 0 to {rows - 1:,}",
            where=str(folder),
            hint="The tokenizer is not this model's: download the folder again.",
            code=EXIT_DATA,
        )
