"""Any Hugging Face mixture of experts as a source: a local folder of weights and a text.

`expert_layers.py` says which layers are found. The routing of stacked experts is read from their
call, and every expert is run by calling the same module with a routing of our own, so whatever
activation it has is its own. That of listed experts is the router's own indices, or the K largest
of its logits. Weights are read from safetensors alone, in the precision they are stored in; nothing
is downloaded, and no code of the folder is run.

Shapes: B windows, M block, T tokens, D width, N experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli import __version__
from simsmoe_cli.collapse.expert_layers import ExpertLayer, find_layers, hidden_units, no_experts
from simsmoe_cli.collapse.findings import Subject
from simsmoe_cli.collapse.sources import Batch, LayerSpec, Routed, Source
from simsmoe_cli.collapse.windows import tokens_together, windows
from simsmoe_cli.data.streams import IGNORED, Tokens
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError

BLOCK = 512
TEXT_BYTES = 2**23  # of a text file; more is not needed for a report
TOP_K_NAMES = ("num_experts_per_tok", "moe_top_k", "num_experts_per_token", "moe_k", "top_k")


class HuggingFaceSource(Source):
    """A model of transformers, or one that is called the same way; see `open_huggingface`.

    Args:
        model: called with `input_ids` [B, M]; gives logits [B, M, V].
        tokens: the text, ids.
        tokenizer: with `decode`; None where tokens have no text.
        top_k: K of listed experts whose router gives logits alone.
        facts: the fields of a `Source`, without `layers`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tokens,
        tokenizer: Any = None,
        top_k: int | None = None,
        **facts: Any,
    ):
        self.found = find_layers(model)
        if not self.found:
            raise no_experts(model, facts["subject"].name)
        super().__init__(
            layers=[LayerSpec(layer.name, layer.number) for layer in self.found], **facts
        )
        self.model = model.eval()
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.top_k = top_k

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        first = next(self.model.parameters())
        together = tokens_together(int(self.subject.settings.get("vocab_size") or 0))
        for inputs, targets, measured in windows(
            self.tokens, self.block, tokens, rows, carries_memory=False, together=together
        ):
            with torch.no_grad():
                yield self._run(inputs.to(first.device), targets.to(first.device), measured)

    def _run(self, inputs_BM: Tensor, targets_BM: Tensor, measured: bool) -> Batch:
        calls: list[_Calls] = [_Calls() for _ in self.found]
        hooks = [
            hook
            for layer, seen in zip(self.found, calls, strict=True)
            for hook in (
                layer.router.register_forward_hook(seen.router),
                layer.experts.register_forward_pre_hook(seen.experts, with_kwargs=True),
            )
        ]
        try:
            output = self.model(input_ids=inputs_BM)
        finally:
            for hook in hooks:
                hook.remove()
        real_T = targets_BM.flatten() != IGNORED
        layers = [
            self._routed(layer, seen, real_T) for layer, seen in zip(self.found, calls, strict=True)
        ]
        nats = F.cross_entropy(
            output.logits.flatten(0, 1).float(),
            targets_BM.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        ids_T = inputs_BM.flatten()[real_T]
        return Batch(ids_T, layers, measured, nats.item(), int(real_T.sum().item()))

    def _routed(self, layer: ExpertLayer, seen: _Calls, real_T: Tensor) -> Routed:
        logits_TN = seen.first("floating", layer.number)
        if logits_TN is None or seen.input is None:
            raise UserError(
                f"the router of {layer.name} gives no logits for its {layer.number} experts",
                where=self.subject.name,
                hint="This kind of model is not supported.",
                code=EXIT_DATA,
            )
        index_TK = seen.index if layer.stacked else seen.first("integer", 0)
        if index_TK is None:
            if self.top_k is None:
                raise UserError(
                    "the model's config does not say how many experts a token is sent to",
                    where=self.subject.name,
                    hint=f"It needs one of {', '.join(TOP_K_NAMES)}.",
                    code=EXIT_DATA,
                )
            index_TK = logits_TN.topk(self.top_k, dim=-1).indices
        taken_TD = seen.input.flatten(0, -2)
        return Routed(taken_TD[real_T], index_TK[real_T], logits_TN[real_T].float())

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        found = self.found[layer]
        with torch.no_grad():
            if isinstance(found.experts, nn.ModuleList):
                return torch.stack([expert(x_TD) for expert in found.experts]).float()
            chosen_T1 = torch.zeros(len(x_TD), 1, dtype=torch.long, device=x_TD.device)
            whole_T1 = torch.ones(len(x_TD), 1, dtype=x_TD.dtype, device=x_TD.device)
            return torch.stack(
                [
                    found.experts(x_TD, chosen_T1 + expert, whole_T1)
                    for expert in range(found.number)
                ]
            ).float()

    def weights(self, layer: int) -> list[Tensor]:
        return hidden_units(self.found[layer].experts)

    def text_of(self, ids: list[int]) -> list[str]:
        return [] if self.tokenizer is None else [self.tokenizer.decode([token]) for token in ids]


class _Calls:
    """What a layer's router and experts were called with, and what the router gave."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        self.input: Tensor | None = None
        self.index: Tensor | None = None

    def router(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.input is None and args:
            self.input = args[0]
        outputs = output if isinstance(output, tuple) else (output,)
        self.given += [value for value in outputs if isinstance(value, Tensor)]

    def experts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.input = next(value for value in tensors if value.is_floating_point())
        self.index = next((value for value in tensors if not value.is_floating_point()), None)

    def first(self, kind: str, width: int) -> Tensor | None:
        """The router's first output of that kind, so wide (0: any), as [T, .]."""
        for value in self.given:
            fits = value.is_floating_point() == (kind == "floating")
            if fits and value.ndim >= 2 and width in (0, value.shape[-1]):
                return value.flatten(0, -2)
        return None


def open_huggingface(
    folder: Path,
    text: Path | None,
    *,
    device: torch.device,
    token_ids: Tokens | None = None,
) -> HuggingFaceSource:
    """A model folder and a text.

    Args:
        folder: config.json, weights as safetensors, and a tokenizer unless `token_ids` are given.
        text: UTF-8; its first 8 MiB are encoded with the folder's tokenizer.
        token_ids: instead of a text.
        device: where to compute.

    Raises:
        UserError: transformers is missing, the folder cannot be opened, it has no experts, or the
            text is too short.
    """
    transformers = _transformers()
    if not (folder / "config.json").is_file():
        raise UserError(
            "no config.json of a Hugging Face model here", where=str(folder), code=EXIT_DATA
        )
    notes: list[str] = []
    tokenizer = None
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        if token_ids is None:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            token_ids = _encode(text, tokenizer, notes)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"transformers cannot open this model: {reason}", where=str(folder), code=EXIT_DATA
        ) from None
    if len(token_ids) < 2:
        raise UserError("the text is empty", where=str(text or folder), code=EXIT_DATA)
    settings = json.loads(model.config.to_json_string(use_diff=False))
    top_k = next((settings[name] for name in TOP_K_NAMES if settings.get(name)), None)
    layers = find_layers(model)
    return HuggingFaceSource(
        model.to(device),
        token_ids,
        tokenizer,
        top_k,
        subject=Subject(
            kind="huggingface",
            name=folder.resolve().name,
            recipe=str(settings.get("model_type", "")),
            router=type(layers[0].router).__name__ if layers else "",
            similarity="none",
            settings=settings,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            checkpoint="",
            step=None,
            seed=None,
            simsmoe=__version__,
            torch=torch.__version__,
        ),
        corpus=text.name if text is not None else "token ids",
        split="text",
        unit="token",
        block=min(BLOCK, int(settings.get("max_position_embeddings") or BLOCK)),
        notes=notes,
    )


def _encode(text: Path | None, tokenizer: Any, notes: list[str]) -> Tokens:
    """The ids of a text file; adds what there is to note."""
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
        notes.append(f"the first {len(content):,} of the {size:,} bytes of {text.name}")
    whole = content.decode("utf-8", errors="replace")
    ids = tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.uint32)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            "reading a Hugging Face model needs transformers",
            hint="Install it: pip install 'simsmoe[hf]'",
        ) from None
