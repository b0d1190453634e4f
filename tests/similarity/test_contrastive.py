"""Contrastive measures against their papers' formulas, token after token in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity

from simsmoe_cli.similarity import contrastive
from simsmoe_cli.similarity.contrastive import expert_confusion
from tests.similarity.measuring import assert_follows, make, related, with_gradients

examples = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
rows = st.integers(2, 14)
widths = st.integers(2, 12)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()


def dot(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def exp_sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).exp().sum()


# --- the papers' losses, one direction -------------------------------------------------------


def info_nce_loss(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """1807.03748, eq. 4, with exp(cos / tau) for the density ratio f."""
    n = len(x)
    total = torch.zeros((), dtype=x.dtype)
    for i in range(n):
        f = [(cosine(x[i], y[j]) / tau).exp() for j in range(n)]
        total = total - (f[i] / sum(f, torch.zeros(()))).log()
    return total / n


def nt_xent_loss(x: Tensor, y: Tensor, tau: float, similarity: Any) -> Tensor:
    """2002.05709, eq. 1: over all positive pairs (k, k') of the 2n outputs, both ways."""
    z, n = [*x, *y], len(x)
    total = torch.zeros((), dtype=x.dtype)
    for i in range(2 * n):
        match = similarity(z[i], z[(i + n) % (2 * n)]) / tau
        others = [similarity(z[i], z[k]) / tau for k in range(2 * n) if k != i]
        total = total - (match.exp() / exp_sum(others)).log()
    return total / (2 * n)


def dcl_loss(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """2110.06848, eq. 6: the positive pair is no part of the denominator."""
    views, n = (x, y), len(x)
    total = torch.zeros((), dtype=x.dtype)
    for k in range(2):
        for i in range(n):
            negatives = [
                cosine(views[k][i], views[m][j]) / tau for m in range(2) for j in range(n) if j != i
            ]
            total = total - cosine(x[i], y[i]) / tau + exp_sum(negatives).log()
    return total / (2 * n)


def rince_loss(x: Tensor, y: Tensor, tau: float, q: float, lam: float) -> Tensor:
    """2201.04309: -e^(q s+) / q + (lambda (e^(s+) + sum e^(s-)))^q / q."""
    n = len(x)
    total = torch.zeros((), dtype=x.dtype)
    for i in range(n):
        s = [cosine(x[i], y[j]) / tau for j in range(n)]
        total = total - (q * s[i]).exp() / q + (lam * exp_sum(s)) ** q / q
    return total / n


def symmetric_rince_loss(x: Tensor, y: Tensor, tau: float, lam: float) -> Tensor:
    """Its case q = 1 as the paper writes it: -(1 - lambda) e^(s+) + lambda sum e^(s-)."""
    n = len(x)
    total = torch.zeros((), dtype=x.dtype)
    for i in range(n):
        s = [cosine(x[i], y[j]) / tau for j in range(n)]
        negatives = exp_sum(s) - s[i].exp()
        total = total - (1 - lam) * s[i].exp() + lam * negatives
    return total / n


# --- the similarities of those losses -----------------------------------------------------------


def infonce(x: Tensor, y: Tensor, tau: float = 0.1) -> Tensor:
    loss = (info_nce_loss(x, y, tau) + info_nce_loss(y, x, tau)) / 2
    return 1 - loss / math.log(len(x))


def directclr(x: Tensor, y: Tensor, width: int, tau: float = 0.1) -> Tensor:
    return infonce(x[:, :width], y[:, :width], tau)


def simclr(x: Tensor, y: Tensor, tau: float, similarity: Any) -> Tensor:
    return 1 - nt_xent_loss(x, y, tau, similarity) / math.log(2 * len(x) - 1)


def dcl(x: Tensor, y: Tensor, tau: float = 0.1) -> Tensor:
    return tau * (math.log(2 * len(x) - 2) - dcl_loss(x, y, tau))


def rince(x: Tensor, y: Tensor, tau: float = 0.1, q: float = 0.5, lam: float = 0.025) -> Tensor:
    loss = (rince_loss(x, y, tau, q, lam) + rince_loss(y, x, tau, q, lam)) / 2
    return -q * math.exp(-q / tau) * loss


def symmetric_rince(x: Tensor, y: Tensor, tau: float = 0.1, lam: float = 0.025) -> Tensor:
    loss = (symmetric_rince_loss(x, y, tau, lam) + symmetric_rince_loss(y, x, tau, lam)) / 2
    return -math.exp(-1 / tau) * loss


@pytest.mark.parametrize(
    ("measure", "given_options", "oracle", "oracle_options"),
    [
        ("infonce", {}, infonce, {}),
        ("infonce", {"temperature": 0.7}, infonce, {"tau": 0.7}),
        ("directclr", {"directclr_width": 2}, directclr, {"width": 2}),
        ("simclr_v1", {"temperature": 3.0}, simclr, {"tau": 3.0, "similarity": dot}),
        ("simclr_v1", {}, simclr, {"tau": 1.0, "similarity": dot}),
        ("simclr_v2", {}, simclr, {"tau": 0.1, "similarity": cosine}),
        ("simclr_v2", {"temperature": 0.5}, simclr, {"tau": 0.5, "similarity": cosine}),
        ("dcl", {}, dcl, {}),
        ("dcl", {"temperature": 0.4}, dcl, {"tau": 0.4}),
        ("rince_v1", {}, symmetric_rince, {}),
        (
            "rince_v1",
            {"temperature": 0.5, "rince_lambda": 0.3},
            symmetric_rince,
            {"tau": 0.5, "lam": 0.3},
        ),
        ("rince_v2", {}, rince, {}),
        (
            "rince_v2",
            {"temperature": 0.3, "rince_lambda": 0.1, "rince_q": 0.2},
            rince,
            {"tau": 0.3, "lam": 0.1, "q": 0.2},
        ),
    ],
)
@examples
@given(seed=seeds, n=rows, d=widths)
def test_value_and_gradient_follow_the_paper(
    measure: str,
    given_options: dict[str, Any],
    oracle: Any,
    oracle_options: dict[str, Any],
    seed: int,
    n: int,
    d: int,
) -> None:
    function = getattr(contrastive, measure)
    assert_follows(
        lambda x, y: function(x, y, **given_options),
        lambda x, y: oracle(x, y, **oracle_options),
        *related(seed, n, d),
    )


def test_directclr_takes_the_papers_share_of_the_features() -> None:
    x, y = related(0, 30, 2048)
    value = contrastive.directclr(x, y)
    torch.testing.assert_close(value, contrastive.infonce(x[:, :360], y[:, :360]))
    x, y = related(0, 30, 6)
    torch.testing.assert_close(contrastive.directclr(x, y), contrastive.infonce(x[:, :2], y[:, :2]))


def test_rince_approaches_infonce_as_q_goes_to_zero() -> None:
    """Gradients: with a small q, RINCE's is InfoNCE's but for a factor."""
    x, y = related(3, 20, 8)
    _, (robust, _) = with_gradients(
        lambda a, b: contrastive.rince_v2(a.double(), b.double(), rince_q=1e-4), x, y
    )
    _, (info, _) = with_gradients(contrastive.infonce, x, y)
    torch.testing.assert_close(robust / robust.norm(), info / info.norm(), atol=2e-3, rtol=0)


# --- ranges -------------------------------------------------------------------------------------


@examples
@given(seed=seeds, n=rows, d=widths, tau=st.sampled_from([0.05, 0.1, 0.5, 2.0]))
def test_values_stay_within_their_ranges(seed: int, n: int, d: int, tau: float) -> None:
    for x, y in (related(seed, n, d), (make(seed, n, d), make(seed + 1, n, d))):
        for first, second in ((x, y), (x, x), (x, -x)):
            low = -2 / (tau * math.log(n))
            for name in ("infonce", "simclr_v2"):
                value = getattr(contrastive, name)(first, second, temperature=tau)
                assert low - 1e-4 <= value <= 1 + 1e-5
            assert -2 <= contrastive.dcl(first, second, temperature=tau) <= 2
            for q, function in ((1.0, contrastive.rince_v1), (0.5, contrastive.rince_v2)):
                value = function(first, second, temperature=tau)
                assert -((0.025 * n) ** q) - 1e-5 <= value <= 1


@pytest.mark.parametrize(
    "name", ["infonce", "directclr", "simclr_v1", "simclr_v2", "dcl", "rince_v1", "rince_v2"]
)
def test_one_for_the_same_outputs_and_zero_for_unrelated_ones(name: str) -> None:
    """Outputs whose directions on different tokens are orthogonal; lambda is 1/n for RINCE."""
    n = 32
    x = torch.eye(2 * n)
    if name == "directclr":
        x = torch.cat([x, torch.zeros(2 * n, 4 * n)], 1)
    options = {"rince_lambda": 1 / n} if "rince" in name else {}
    options |= {"directclr_width": 2 * n} if name == "directclr" else {}
    scale = 10.0 if name == "simclr_v1" else 1.0
    same, other = scale * x[:n], scale * x[n:]
    measure = getattr(contrastive, name)
    tolerance = 0.18 if name == "rince_v2" else 0.05
    assert measure(same, same, **options).item() == pytest.approx(1, abs=tolerance)
    assert measure(same, other, **options).item() == pytest.approx(0, abs=1e-4)


# --- across experts -------------------------------------------------------------------------


def confusion(outputs: Tensor, tau: float) -> Tensor:
    """Cross-entropy of telling the expert from its output, by cosines of centred outputs."""
    experts, tokens, _ = outputs.shape
    centred = outputs - outputs.mean(1, keepdim=True)
    values = []
    for i in range(experts):
        total = torch.zeros((), dtype=outputs.dtype)
        for t in range(tokens):
            s = [cosine(centred[i, t], centred[j, t]) / tau for j in range(experts)]
            total = total - (s[i].exp() / exp_sum(s)).log()
        values.append(total / tokens / math.log(experts))
    return torch.stack(values)


def some_experts(seed: int, experts: int, n: int, d: int) -> Tensor:
    return make(seed, experts, n, d) + make(seed + 1, 1, n, d) + make(seed + 2, experts, 1, d)


@examples
@given(seed=seeds, experts=st.integers(2, 5), n=rows, d=st.integers(3, 12))
def test_confusion_follows_its_definition(seed: int, experts: int, n: int, d: int) -> None:
    outputs = some_experts(seed, experts, n, d)
    value, (gradient,) = with_gradients(lambda z: expert_confusion(z, temperature=0.3), outputs)
    expected, (wanted,) = with_gradients(lambda z: confusion(z, 0.3), outputs.double())
    torch.testing.assert_close(value.double(), expected, atol=2e-5, rtol=0)
    tolerance = 1e-4 * wanted.abs().max().item() + 1e-7
    torch.testing.assert_close(gradient.double(), wanted, atol=tolerance, rtol=0)


def test_confusion_is_one_for_the_same_experts_and_near_zero_for_unrelated_ones() -> None:
    x = make(0, 1, 40, 128)
    assert expert_confusion(x.expand(6, -1, -1)).tolist() == pytest.approx([1.0] * 6, abs=1e-5)
    assert expert_confusion(make(1, 6, 40, 128)).max() < 0.05
    assert expert_confusion(make(1, 6, 40, 128)).min() >= 0


def test_a_constant_added_to_an_expert_sets_it_apart_no_more() -> None:
    outputs = some_experts(0, 4, 30, 8)
    shifted = outputs + torch.tensor([0.0, 5.0, -3.0, 0.0])[:, None, None]
    torch.testing.assert_close(
        expert_confusion(shifted), expert_confusion(outputs), atol=1e-4, rtol=0
    )


def test_an_undefined_expert_is_no_candidate() -> None:
    outputs = some_experts(0, 4, 30, 8)
    outputs[2] = 1.5
    value, (gradient,) = with_gradients(lambda z: expert_confusion(z).nan_to_num(), outputs)
    kept = [0, 1, 3]
    torch.testing.assert_close(value[kept], expert_confusion(outputs[kept]))
    assert expert_confusion(outputs)[2].isnan()
    assert gradient.isfinite().all()
    assert (gradient[2] == 0).all()
    alone = outputs.clone()
    alone[1:] = 1.0
    assert expert_confusion(alone).isnan().all()


def test_cosines_here_are_torchs() -> None:
    x, y = related(0, 5, 7)
    for a, b in zip(x, y, strict=True):
        torch.testing.assert_close(cosine(a, b), cosine_similarity(a, b, dim=0))
