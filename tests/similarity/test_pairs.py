"""The pair tracker against a plain count, and the sampling of shared tokens."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsmoe_cli.similarity.pairs import DuePairs, PairTracker, sample_shared, selection_mask


def route(seed: int, tokens: int, experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Router logits of a batch, and the experts chosen by them."""
    logits_TN = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    return logits_TN.topk(top_k).indices, logits_TN


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    shape=st.sampled_from([(2, 1), (2, 2), (5, 1), (5, 2), (6, 3), (4, 4)]),
    tokens=st.integers(1, 60),
    pairs=st.integers(1, 20),
    check_every=st.sampled_from([0.0, 0.3, 1.0]),
    min_tokens=st.sampled_from([0, 4, 16]),
)
def test_tracker_follows_a_count_of_pairs(
    seed: int,
    shape: tuple[int, int],
    tokens: int,
    pairs: int,
    check_every: float,
    min_tokens: int,
) -> None:
    experts, top_k = shape
    tracker = PairTracker(experts)
    sums: Counter[tuple[int, int]] = Counter()
    for step in range(6):
        index_TK, logits_TN = route(seed + step, tokens, experts, top_k)
        count_NN = tracker.observe(selection_mask(index_TK, logits_TN, top_k))
        due = tracker.due(pairs, check_every, count_NN >= min_tokens)

        # The experts a token counts for; with K = 1 the runner-up counts as well.
        chosen = logits_TN.topk(max(top_k, 2)).indices.tolist()
        shared = Counter(pair for row in chosen for pair in itertools.combinations(sorted(row), 2))
        for pair, count in shared.items():
            sums[pair] += count / tokens
            assert count_NN[pair] == count_NN[pair[::-1]] == count
        able = {
            pair: total
            for pair, total in sums.items()
            if total > check_every and shared[pair] >= min_tokens
        }

        places = min(pairs, experts * (experts - 1) // 2)
        assert due.first_P.shape == due.second_P.shape == due.due_P.shape == (places,)
        named = list(zip(due.first_P.tolist(), due.second_P.tolist(), strict=True))
        assert len(set(named)) == places
        assert all(first < second for first, second in named)
        taken = [pair for pair, is_due in zip(named, due.due_P.tolist(), strict=True) if is_due]
        assert len(taken) == min(places, len(able))
        rest = [total for pair, total in able.items() if pair not in taken]
        assert all(able[pair] >= max(rest, default=0) - 1e-6 for pair in taken)

        tracker.checked(due)
        for pair in taken:
            sums[pair] = 0
        expected = torch.zeros(experts, experts)
        for (first, second), total in sums.items():
            expected[first, second] = expected[second, first] = total
        torch.testing.assert_close(tracker.shared_NN, expected, atol=1e-6, rtol=0)


def test_no_pair_is_due_at_or_below_the_limit() -> None:
    tracker = PairTracker(3)
    tracker.shared_NN[0, 1] = tracker.shared_NN[1, 0] = 2.0
    assert not tracker.due(3, check_every=2.0).due_P.any()
    due = tracker.due(3, check_every=1.5)
    assert due.due_P.tolist() == [True, False, False]
    assert (due.first_P[0].item(), due.second_P[0].item()) == (0, 1)


def test_pairs_that_cannot_be_checked_take_no_place() -> None:
    tracker = PairTracker(4)
    able_NN = torch.ones(4, 4, dtype=torch.bool)
    for first, second, total in ((0, 1, 9.0), (0, 2, 8.0), (2, 3, 1.0)):
        tracker.shared_NN[first, second] = tracker.shared_NN[second, first] = total
    able_NN[0, 1] = able_NN[1, 0] = able_NN[0, 2] = able_NN[2, 0] = False
    due = tracker.due(2, check_every=0.0, able_NN=able_NN)
    assert due.due_P.tolist() == [True, False]
    assert (due.first_P[0].item(), due.second_P[0].item()) == (2, 3)
    tracker.checked(due)
    assert tracker.shared_NN[0, 1] == 9.0
    assert tracker.shared_NN[2, 3] == tracker.shared_NN[3, 2] == 0.0


def test_the_sums_travel_with_checkpoints() -> None:
    tracker = PairTracker(4)
    index_TK, logits_TN = route(0, 20, 4, 2)
    tracker.observe(selection_mask(index_TK, logits_TN, 2))
    other = PairTracker(4)
    other.load_state_dict(tracker.state_dict())
    assert tracker.shared_NN.any()
    assert torch.equal(other.shared_NN, tracker.shared_NN)


def test_counts_are_exact_under_low_precision_autocast() -> None:
    selected_TN = torch.ones(3001, 2, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        count_NN = PairTracker(2).observe(selected_TN)
    assert count_NN.tolist() == [[0, 3001], [3001, 0]]


def test_for_one_expert_per_token_the_best_of_the_others_counts() -> None:
    logits_TN = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    # The second token's router did not take the best expert by logits.
    selected_TN = selection_mask(torch.tensor([[0], [2], [2]]), logits_TN, top_k=1)
    assert selected_TN.tolist() == [
        [True, True, False],
        [True, False, True],
        [False, True, True],
    ]
    selected_TN = selection_mask(torch.tensor([[0, 2], [2, 1], [2, 0]]), logits_TN, top_k=2)
    assert selected_TN.sum(1).tolist() == [2, 2, 2]


# --- shared tokens -----------------------------------------------------------------------------


def test_all_shared_tokens_in_order_when_they_fit() -> None:
    selected_TN = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0]]).bool()
    first_P, second_P = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    state = torch.get_rng_state()
    for tokens in (4, 100):
        index_Pn, mask_Pn = sample_shared(selected_TN, first_P, second_P, tokens)
        drawn = [index[mask].tolist() for index, mask in zip(index_Pn, mask_Pn, strict=True)]
        assert drawn == [[0, 1, 3], [1], [1, 2]]
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), tokens=st.integers(1, 39))
def test_sample_holds_shared_tokens_once_each(seed: int, tokens: int) -> None:
    selected_TN = selection_mask(*route(seed, 40, 5, 2), top_k=2)
    first_P, second_P = torch.triu_indices(5, 5, 1)
    index_Pn, mask_Pn = sample_shared(selected_TN, first_P, second_P, tokens)
    assert index_Pn.shape == mask_Pn.shape == (10, tokens)
    for p in range(10):
        both_T = selected_TN[:, first_P[p]] & selected_TN[:, second_P[p]]
        shared = set(both_T.nonzero()[:, 0].tolist())
        drawn = index_Pn[p][mask_Pn[p]].tolist()
        assert len(drawn) == len(set(drawn)) == min(tokens, len(shared))
        assert set(drawn) <= shared


def test_sample_is_uniform() -> None:
    selected_TN = torch.zeros(30, 2, dtype=torch.bool)
    selected_TN[::3] = True
    torch.manual_seed(0)
    pair = torch.zeros(2000, dtype=torch.int64)
    index_Pn, mask_Pn = sample_shared(selected_TN, pair, pair + 1, 4)
    assert mask_Pn.all()
    counts = index_Pn.flatten().bincount(minlength=30)
    assert (counts[torch.arange(30) % 3 > 0] == 0).all()
    # 800 expected for each of the ten, with a standard deviation of sqrt(2000 * 0.4 * 0.6) = 22.
    assert (counts[::3] - 800).abs().max() < 5 * 22


# --- ranks -------------------------------------------------------------------------------------


def observe_on_a_rank(rank: int, folder: str) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    tracker = PairTracker(4)
    count_NN = tracker.observe(selection_mask(*route(rank, 30, 4, 2), top_k=2))
    torch.save([tracker.shared_NN, count_NN, *tracker.due(3, 0.1)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_agree_on_sums_over_all_of_their_tokens(tmp_path: Path) -> None:
    mp.spawn(observe_on_a_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    alone = PairTracker(4)
    batches = [selection_mask(*route(rank, 30, 4, 2), top_k=2) for rank in range(2)]
    count_NN = alone.observe(torch.cat(batches))
    torch.testing.assert_close(first[0], alone.shared_NN)
    torch.testing.assert_close(first[1], count_NN)
    for got, expected in zip(DuePairs(*first[2:]), alone.due(3, 0.1), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(("experts", "places"), [(2, 1), (3, 3), (8, 4)])
def test_number_of_places_is_static(experts: int, places: int) -> None:
    assert len(PairTracker(experts).due(4, 0.0).first_P) == places
