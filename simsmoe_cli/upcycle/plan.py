"""What an upcycled model consists of: every tensor, where it comes from, and the file it goes to.

Sparse upcycling (Komatsuzaki et al. 2212.05055): each expert starts as a copy of the dense
feed-forward block, and only the router is new. The weights of a token's chosen experts sum to 1, so
the function is that of the dense model.

Qwen2-MoE also has a shared expert behind a sigmoid gate. Its gate starts at zero, which gives half
of the shared expert, and the down projections of the other experts are halved. Both halves sum to
the dense block, and halving is exact in floating point.

Shapes: N experts, D model width, H hidden width of the feed-forward block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from simsmoe_cli.errors import DataError, listed
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.huggingface.stored_tensors import PLAIN_FLOATS
from simsmoe_cli.upcycle.config import DENSE_CLASSES, DENSE_PROJECTIONS, Layout, quantised

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
COMPUTED = re.compile(r"rotary_emb\.")  # buffers that old folders hold
BLOCK = re.compile(r"model\.layers\.(\d+)\.mlp\.(\w+)\.weight")


@dataclass(frozen=True)
class Output:
    """A tensor to write.

    Attributes:
        name: in the files.
        shape: its shape.
        dtype: as safetensors writes it.
        source: the dense tensor it is made from. A router and a gate have only its dtype.
        role: "copy", "gate", "up" or "down" of an expert, "router", "zeros".
        layer: number of the layer.
        expert: number of the expert.
        scale: what the dense tensor is multiplied with.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: str
    role: str = "copy"
    layer: int = 0
    expert: int = 0
    scale: float = 1.0

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in a file."""
        return self.count * BYTES[self.dtype]


def require_dense_weights(folder: ModelFolder, config: Any, transformers: Any) -> list[str]:
    """The names of the tensors that the dense model uses, in the order of its layers.

    Raises:
        UserError: tensors are missing, unknown, of another shape, or not plain floats.
    """
    stored, where = folder.tensors, str(folder.path)
    coded = [name for name, tensor in stored.items() if tensor.dtype not in PLAIN_FLOATS]
    if coded:
        raise quantised(f"{stored[coded[0]].dtype}: {coded[0]}", folder.path)
    if config.num_hidden_layers > len(stored):
        raise DataError(
            f"config.json says {config.num_hidden_layers:,} layers, and the files hold only "
            f"{len(stored):,} tensors",
            where=where,
        )
    with foreign_code("transformers cannot build the model", where), torch.device("meta"):
        model = getattr(transformers, DENSE_CLASSES[config.model_type])(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    wanted = [name for name in shapes if name not in tied]
    faults = {
        "missing": [name for name in wanted if name not in stored],
        "of another shape": [
            name for name in wanted if name in stored and stored[name].shape != shapes[name]
        ],
        "unknown to the model": [
            name for name in stored if name not in shapes and not COMPUTED.search(name)
        ],
    }
    found = [f"{label}: {listed(names, 3)}" for label, names in faults.items() if names]
    if found:
        raise DataError(
            f"weights and config.json do not agree; {'; '.join(found)}",
            where=where,
            hint=f"Give the complete folder of a {DENSE_CLASSES[config.model_type]}.",
        )
    return wanted


def outputs(
    folder: ModelFolder, names: list[str], layout: Layout, experts: int
) -> Iterator[Output]:
    """The tensors of the upcycled model.

    Args:
        folder: of the dense model.
        names: its tensors.
        layout: of the mixture of experts.
        experts: N.
    """
    for name in names:
        stored = folder.tensors[name]
        match = BLOCK.fullmatch(name)
        if not match:
            yield Output(name, stored.shape, stored.dtype, name)
            continue
        layer, projection = int(match[1]), DENSE_PROJECTIONS.index(match[2])
        block = f"model.layers.{layer}.{layout.block}"
        role = ("gate", "up", "down")[projection]
        scale = 0.5 if layout.shared and role == "down" else 1.0
        for expert in range(experts):
            yield Output(
                f"{block}.experts.{expert}.{layout.projections[projection]}.weight",
                stored.shape,
                stored.dtype,
                name,
                role,
                layer,
                expert,
                scale,
            )
        if layout.shared:
            shared = f"{block}.shared_expert.{layout.projections[projection]}.weight"
            yield Output(shared, stored.shape, stored.dtype, name)
        if role == "gate":
            width = stored.shape[1]
            new = [("gate", (experts, width), "router")]
            if layout.shared:
                new.append(("shared_expert_gate", (1, width), "zeros"))
            for part, shape, kind in new:
                yield Output(f"{block}.{part}.weight", shape, stored.dtype, name, kind, layer)


def shards(tensors: list[Output], most: int) -> list[list[Output]]:
    """The tensors in the files they go to.

    Args:
        tensors: in order.
        most: bytes a file may hold; a larger tensor has a file of its own.
    """
    files: list[list[Output]] = []
    size = 0
    for tensor in tensors:
        if not files or size + tensor.bytes > most:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += tensor.bytes
    return files
