"""The published code of SimSMoE, imported from a checkout and trained on a CPU.

It needs fastmoe, and fastmoe needs an extension module in CUDA. The stand-ins here take the place
of that extension, of two small packages and of the similarity losses, which are not used.
Everything else is the published code itself: the model, the optimizer and the training step.
Nothing is copied from either checkout.

`FmoeCuda` does what the extension does (fastmoe at ee3c561), as fast as plain torch does it. The
stand-in in tests/moe/fmoe_standin.py is slow and strict instead, and proves our adapter right.

Shapes: R slots, S slots with an expert, I input width, O output width, N experts, B batch, M block.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from simsmoe_cli.recipe.schema import Recipe


class FmoeCuda(ModuleType):
    """The functions of fastmoe's extension that training in one process calls."""

    @staticmethod
    def expert_count(gate_R: Tensor, count_N: Tensor) -> None:
        """Count the slots of each expert; -1 is no expert."""
        chosen = gate_R.flatten()
        count_N += torch.bincount(chosen[chosen >= 0], minlength=count_N.shape[0])

    @staticmethod
    def assign_pos(end_N: Tensor, gate_R: Tensor, slot_S: Tensor) -> None:
        """Fill in the slots, sorted by expert."""
        order_R = gate_R.flatten().argsort(stable=True)
        slot_S.copy_(order_R[order_R.shape[0] - slot_S.shape[0] :])

    @staticmethod
    def linear_forward(
        rows_SI: Tensor, count_N: Tensor, weight_NOI: Tensor, bias_NO: Tensor | None
    ) -> Tensor:
        out_SO = rows_SI.new_empty(rows_SI.shape[0], weight_NOI.shape[1])
        for expert, rows, out in _groups(count_N, rows_SI, out_SO):
            if bias_NO is None:
                torch.mm(rows, weight_NOI[expert].T, out=out)
            else:
                torch.addmm(bias_NO[expert], rows, weight_NOI[expert].T, out=out)
        return out_SO

    @staticmethod
    def linear_backward(
        grad_SO: Tensor,
        rows_SI: Tensor,
        count_N: Tensor,
        weight_NOI: Tensor,
        bias_NO: Tensor | None,
    ) -> list[Tensor]:
        d_rows_SI, d_weight_NOI = torch.empty_like(rows_SI), torch.zeros_like(weight_NOI)
        d_bias_NO = weight_NOI.new_zeros(weight_NOI.shape[:2])
        for expert, grad, rows, d_rows in _groups(count_N, grad_SO, rows_SI, d_rows_SI):
            torch.mm(grad, weight_NOI[expert], out=d_rows)
            torch.mm(grad.T, rows, out=d_weight_NOI[expert])
            torch.sum(grad, 0, out=d_bias_NO[expert])
        return [d_rows_SI, d_weight_NOI, d_bias_NO]


def _groups(count_N: Tensor, *rows_S: Tensor) -> Iterator[tuple[Any, ...]]:
    """Each expert with its rows of every tensor."""
    parts = (tensor.split(count_N.tolist()) for tensor in rows_S)
    return zip(range(count_N.shape[0]), *parts, strict=True)


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def _standins() -> dict[str, ModuleType]:
    """Modules by the names under which the published code imports them."""
    return {
        "fmoe_cuda": FmoeCuda("fmoe_cuda"),
        # dm-tree, of which only this is used.
        "tree": _module("tree", map_structure=_pytree.tree_map, flatten=_pytree.tree_leaves),
        "tqdm": _module("tqdm", tqdm=iter),
        # The similarity losses, which need CUDA to be imported; none is chosen.
        "loss": _module("loss", get_loss=None),
    }


@contextlib.contextmanager
def _importing(*folders: Path) -> Iterator[None]:
    """Let the published modules be imported; they warn of their own syntax."""
    path, standins = sys.path.copy(), _standins()
    hidden = {name: sys.modules[name] for name in standins if name in sys.modules}
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    sys.modules.update(standins)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path[:] = path
        for name in standins:
            del sys.modules[name]
        sys.modules.update(hidden)


def missing(checkout: Path, fastmoe: Path) -> str:
    """What is wrong with the two folders, in a sentence; empty if nothing is."""
    wanted = {
        "--checkout": (checkout, "custom_transformer.py", "giangdip2410/SimSMoE"),
        "--fastmoe": (fastmoe, "fmoe/layers.py", "laekov/fastmoe"),
    }
    for option, (folder, file, repository) in wanted.items():
        if not (folder / file).is_file():
            return f"{option} {folder} holds no {file}; it takes a checkout of {repository}"
    return ""


def training(
    checkout: Path, fastmoe: Path, recipe: Recipe, vocabulary: int, tokens: Tensor
) -> Callable[[], float]:
    """A function that takes the next training step of the published code and returns its loss.

    Args:
        checkout, fastmoe: folders of SimSMoE's published code and of fastmoe.
        recipe: a brainformer with router smoe and without similarity learning.
        vocabulary: V.
        tokens: the training split, cut into contiguous streams as the published code cuts it.
    """
    model, train = recipe.model, recipe.train
    words: dict[str, object] = {
        "base_arch": "brainformer",
        "architecture": model.sublayers,
        "gate_name": recipe.moe.router,
        "nlayers": model.repeats,
        "num_expert": recipe.moe.experts,
        "top_k": recipe.moe.top_k,
        "hid-sz": model.width,
        "inner-hid-sz": recipe.moe.hidden,
        "nheads": model.heads,
        "block-sz": train.block,
        "attn-span": model.span,
        "dropout": model.dropout,
        "load_balance": recipe.loss_weights["balance"],
        "optim": train.optimizer,
        "lr": train.lr,
        "batch-sz": train.batch,
        "batch-split": train.micro_batches,
    }
    arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    with _importing(checkout, fastmoe):
        code = SimpleNamespace(
            **{
                name: importlib.import_module(name)
                for name in ("config", "models", "utils", "trainer", "data")
            }
        )
    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it builds.
        given = code.utils.get_params(code.config.PARAMS_CONFIG, arguments)
        torch.manual_seed(train.seed)
        inner = code.models.TransformerSeq(
            vocab_size=vocabulary,
            **given["model_params"],
            adapt_span_params=given["adapt_span_params"],
        )
        optimizer, scheduler = code.utils.get_optimizer_and_scheduler(
            model=inner, optim_params=given["optim_params"]
        )
    # It updates the learning rate before the weights; its train.py ignores warnings too.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    # As its train.py does; without a GPU this only passes calls on.
    module = torch.nn.DataParallel(inner).train()
    streams_BN = code.data._batchify(tokens, train.batch)
    attentions = model.sublayers.count("s")
    cache = [torch.zeros(train.batch, model.span, model.width) for _ in range(attentions)]
    position = 0

    def step() -> float:
        nonlocal cache, position
        if position + train.block >= streams_BN.shape[1]:
            position = 0
        stop = position + train.block
        x_BM, y_BM = streams_BN[:, position:stop], streams_BN[:, position + 1 : stop + 1]
        loss, cache = code.trainer._train_batch(
            module,
            given["model_params"]["load_balance"],
            optimizer,
            scheduler,
            x_BM.contiguous(),
            y_BM.contiguous(),
            cache,
            False,
            train.micro_batches,
        )
        position = stop
        return float(loss)

    return step
