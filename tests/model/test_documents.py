"""Attention within documents: a document in a stream of many is computed as if it was alone."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from simsmoe_cli.generation.sampling import Reader
from simsmoe_cli.kernels import relative_attention as relative
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.model import attention
from simsmoe_cli.model.language_model import LanguageModel
from tests.no_waiting import NoWaiting
from tests.train.tiny import recipe

END, VOCABULARY, SPAN = 11, 12, 7
LENGTHS = [5, 0, 17, 1, 9, 26, 2]
# Angles of rotary positions are computed in fp32.
CLOSE = {"relative": {"atol": 1e-11, "rtol": 1e-9}, "rope": {"atol": 1e-5, "rtol": 1e-5}}
PATHS = {"cpu": contextlib.nullcontext, "cuda": as_on_accelerators}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relative, "QUERY_CHUNK", 4)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 4)
    monkeypatch.setattr(attention, "QUERY_CHUNK_ON_CPU", 4)


def model(kind: str, within: bool = True) -> LanguageModel:
    torch.manual_seed(1)
    made = LanguageModel(
        recipe(
            model={"attention": kind, "span": SPAN, "width": 8, "pattern": "sf"},
            data={"attend_within_documents": within},
        ),
        VOCABULARY,
    ).double()
    if made.document_end is not None:
        made.document_end.fill_(END)
    for parameter in made.parameters():  # so that attention is far from uniform
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def documents(seed: int) -> list[Tensor]:
    """Documents that begin with the end token before them, [1, length + 1] each."""
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(END, (1, length), generator=generator) for length in LENGTHS]
    return [torch.cat([torch.tensor([[END]]), text], 1) for text in texts]


def alone(of: LanguageModel, texts: list[Tensor]) -> Tensor:
    return torch.cat([of(text).logits for text in texts], 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["relative", "rope"])
def test_outputs_and_gradients_are_those_of_each_document_alone(kind: str, path: str) -> None:
    ours = model(kind)
    rows = [documents(0), documents(1)[::-1]]
    stream = torch.cat([torch.cat(row, 1) for row in rows])
    weight = torch.linspace(-1, 1, stream.numel() * VOCABULARY).double()
    weight = weight.view(*stream.shape, VOCABULARY)
    parameters = list(ours.parameters())
    with PATHS[path]():
        together = ours(stream).logits
        gradients = torch.autograd.grad((together * weight).sum(), parameters)
        apart = torch.cat([alone(ours, row) for row in rows])
        expected = torch.autograd.grad((apart * weight).sum(), parameters)
    torch.testing.assert_close(together, apart, **CLOSE[kind])
    for mine, oracle in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, oracle, **CLOSE[kind])
    assert not torch.allclose(model(kind, within=False)(stream).logits, apart)


@pytest.mark.parametrize("kind", ["relative", "rope"])
def test_no_step_waits_on_the_device(kind: str) -> None:
    ours = model(kind)
    stream = torch.cat(documents(0), 1)
    memory = ours.initial_memory(1)
    with NoWaiting():
        output = ours(stream, memory)
        ours(stream, output.memory).logits.sum().backward()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("block", [1, 5, 16])
def test_carried_memory_ends_with_its_document(block: int, path: str) -> None:
    ours = model("relative")
    rows = [documents(0), documents(1)[::-1]]
    stream = torch.cat([torch.cat(row, 1) for row in rows])
    memory: list[Tensor] = []
    logits = []
    with torch.no_grad(), PATHS[path]():
        for part in stream.split(block, 1):
            output = ours(part, memory)
            memory = output.memory
            logits.append(output.logits)
        apart = torch.cat([alone(ours, row) for row in rows])
    torch.testing.assert_close(torch.cat(logits, 1), apart, **CLOSE["relative"])


@pytest.mark.parametrize("kind", ["relative", "rope"])
def test_a_text_that_is_generated_forgets_the_documents_before_it(kind: str) -> None:
    ours = model(kind)
    texts = documents(2)
    reader = Reader(ours, at_once=3)
    for text in texts:
        logits, _ = reader.read(text[0].tolist())
        with torch.inference_mode():
            torch.testing.assert_close(logits, ours(text).logits[0, -1], **CLOSE[kind])
    logits, steps = Reader(ours, at_once=3).read(torch.cat(texts, 1)[0].tolist())
    assert [step.token for step in steps] == torch.cat(texts, 1)[0].tolist()
    with torch.inference_mode():
        expected = ours(texts[-1]).logits[0, -1]
    torch.testing.assert_close(logits, expected, **CLOSE[kind])
