"""attach: a foreign model gets the gradient of the similarity loss, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simsmoe_cli.any_moe.handle import attach
from simsmoe_cli.errors import UserError
from simsmoe_cli.similarity.learning import SimilarityLearning
from tests.any_moe.by_hand import (
    EVERYTHING,
    FAMILIES,
    Seen,
    attached,
    batch,
    by_hand,
    checkpoint_layers,
    cka,
    gradients,
    loss_of,
    made,
    require_equal,
)
from tests.any_moe.own_model import Expert, OwnModel, loss_by_hand, own_batch


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_gradient_is_that_of_an_explicit_loss(model_type: str) -> None:
    model = made(model_type)
    wanted = by_hand(model, [batch()])
    plain = copy.deepcopy(model)
    loss_of(plain, batch()).backward()
    without = gradients(plain)
    assert any((wanted[name] - without[name]).abs().max() > 1e-4 for name in without)
    found, _ = attached(model, [batch()])
    require_equal(found, wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "deepseek_v3", "gpt_oss", "jetmoe"])
def test_gradient_checkpointing_changes_no_gradient_and_counts_once(
    model_type: str, reentrant: bool
) -> None:
    batches = [batch(1), batch(2)]
    wanted, plain = attached(made(model_type), batches)
    found, handle = attached(made(model_type), batches, checkpointing=reentrant)
    require_equal(found, wanted)
    for layer, without in zip(handle.layers, plain.layers, strict=True):
        assert torch.equal(layer.slots_N, without.slots_N)
        assert layer.slots_N.sum() > 0
        state, expected = layer.state_dict(), without.state_dict()
        assert torch.equal(state["tracker.shared_NN"], expected["tracker.shared_NN"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_draws_the_tokens_of_its_first_pass(reentrant: bool) -> None:
    model = made("mixtral")
    few = {"preset": "calibrated", "tokens": 32, "min_tokens": 8, "pairs": 2, "weight": 0.7}
    few["budget"] = None
    found = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model)
        if checkpointing:
            checkpoint_layers(trained, reentrant)
        handle = attach(trained, few)
        for number in range(3):
            # Two forward passes before their backward passes, in an order of their own.
            losses = []
            for half in range(2):
                mask = torch.ones_like(batch())
                mask[half, 20:] = 0
                handle.batch(attention_mask=mask)
                losses.append(loss_of(trained, batch(10 * number + half)))
            for loss in losses if reentrant else reversed(losses):
                loss.backward()
            handle.step()
        found.append((gradients(trained), [layer.state_dict() for layer in handle.layers]))
    if not reentrant:  # whose first passes count nothing, so that all counting is in their order
        require_equal(found[1][0], found[0][0])
        for left, right in zip(found[0][1], found[1][1], strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)


def test_accumulated_batches_give_the_mean() -> None:
    model = made("mixtral")
    batches = [batch(number) for number in range(4)]
    found, _ = attached(model, batches)
    require_equal(found, by_hand(model, batches))


@pytest.mark.parametrize("similarity", ["none", "detached"])
def test_measuring_leaves_a_training_bit_for_bit_as_it_was(similarity: str) -> None:
    weights = []
    for attach_it in (False, True):
        model = made("mixtral", attention_dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        handle = None
        if attach_it:
            handle = attach(model, "calibrated" if similarity == "detached" else "none")
            if similarity == "detached":
                handle.detach()
        torch.manual_seed(3)
        for number in range(4):
            optimizer.zero_grad()
            loss_of(model, batch(number)).backward()
            optimizer.step()
            if handle is not None and similarity == "none":
                handle.step()
        weights.append([part.clone() for part in model.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*weights, strict=True))


def test_learning_draws_nothing_from_the_users_generator() -> None:
    model = made("mixtral")
    few = {"preset": "calibrated", "tokens": 32, "min_tokens": 8}
    handle = attach(model, few, probe_every=1)
    before = torch.get_rng_state()
    for number in range(3):
        loss_of(model, batch(number)).backward()
        handle.step()
    assert handle.metrics()["similarity"] != 0
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_is_neither_counted_nor_compared() -> None:
    model = made("mixtral")
    ids = batch()
    mask = torch.ones_like(ids)
    mask[0, 25:] = 0
    mask[2, 10:] = 0
    real_T = mask.flatten().bool()

    def padded(model: nn.Module) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        kept = mask[:, 1:].flatten().bool()
        return nn.functional.cross_entropy(logits[kept], ids[:, 1:].flatten()[kept])

    plain = copy.deepcopy(model)
    seen = Seen(plain)
    loss = padded(plain)
    for place in range(len(seen.layers)):
        seen.x_TD[place] = seen.x_TD[place][real_T]
        seen.index_TK[place] = seen.index_TK[place][real_T]
    (loss + EVERYTHING["weight"] * seen.loss(seen.shared())).backward()

    handle = attach(model, EVERYTHING)
    padded(model).backward()
    require_equal(gradients(model), gradients(plain))
    for place, layer in enumerate(handle.layers):
        counted = torch.bincount(seen.index_TK[place].flatten(), minlength=layer.layer.number)
        assert torch.equal(layer.slots_N, counted.float())
    handle.detach()

    again = made("mixtral")
    handle = attach(again, EVERYTHING)
    handle.batch(attention_mask=mask)  # said by the loop, not by the model's call
    again(input_ids=ids).logits.sum().backward()
    assert handle.layers[0].slots_N.sum() == 2 * mask.sum()


def test_a_list_of_experts_in_code_of_ones_own() -> None:
    model, x = OwnModel(), own_batch()
    plain = copy.deepcopy(model)
    loss_by_hand(plain, x).backward()
    attach(model, EVERYTHING)
    model(x).square().mean().backward()
    require_equal(gradients(model), gradients(plain))


def test_frozen_experts_are_measured_and_get_no_gradient() -> None:
    model = made("mixtral")
    for name, part in model.named_parameters():
        part.requires_grad_(".experts." not in name)
    wanted = copy.deepcopy(model)
    loss_of(wanted, batch()).backward()
    handle = attach(model, EVERYTHING, probe_every=1, log_every=1)
    loss_of(model, batch()).backward()
    handle.step()
    require_equal(gradients(model), gradients(wanted))
    assert handle.metrics()["cka_mean"] > -1


def test_a_scaled_loss_is_unscaled_with_the_similarity_loss() -> None:
    model = made("mixtral")
    wanted = by_hand(model, [batch()])
    handle = attach(model, EVERYTHING)
    scale = 2.0**12  # as of a GradScaler
    handle.loss_scale = scale
    (loss_of(model, batch()) * scale).backward()
    require_equal({name: part / scale for name, part in gradients(model).items()}, wanted)


def test_weights_in_bf16() -> None:
    wanted, _ = attached(made("mixtral"), [batch()])
    model = made("mixtral").to(torch.bfloat16)
    found, _ = attached(model, [batch()])
    for name, gradient in wanted.items():
        if "experts" in name:
            error = (found[name].float() - gradient).norm() / gradient.norm()
            assert error < 0.1, name


# transformers' masks look at `.grad` while they are traced, which PyTorch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_model() -> None:
    torch._dynamo.reset()
    wanted, plain = attached(made("mixtral"), [batch()])
    model = made("mixtral")
    handle = attach(model, EVERYTHING)
    compiled = torch.compile(model, backend="aot_eager")
    loss_of(compiled, batch()).backward()
    require_equal(gradients(model), wanted)
    assert torch.equal(handle.layers[0].slots_N, plain.layers[0].slots_N)


def test_evaluation_and_passes_without_gradients_are_not_counted() -> None:
    model = made("mixtral")
    handle = attach(model, EVERYTHING)
    with torch.no_grad():
        loss_of(model, batch())
    model.eval()
    loss_of(model, batch())
    assert handle.layers[0].slots_N.sum() == 0
    assert "similarity" not in handle.metrics()


def test_metrics_are_those_of_the_models_own_tensors() -> None:
    model = made("qwen3_moe")
    handle = attach(model, "none", probe_every=1, log_every=2)
    load = torch.zeros(16)
    for number in range(2):
        loss_of(model, batch(number)).backward()
        handle.step()
    plain = made("qwen3_moe")
    seen = Seen(plain)
    for number in range(2):
        loss_of(plain, batch(number))
        load += torch.bincount(seen.index_TK[0].flatten(), minlength=16)
    share = load / load.mean()
    found = handle.metrics()
    assert found["layer_0/load_max"] == pytest.approx(share.max().item())
    assert "layer_0/dead" not in found  # too few tokens to judge 16 experts
    assert handle.layers[0].unjudged == load.int().tolist()
    values = torch.stack([seen.expert(0, number) for number in range(16)])
    pairs = [cka(values[i], values[j]) for i in range(16) for j in range(i + 1, 16)]
    assert found["layer_0/cka_mean"] == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-4)
    assert found["layer_0/cka_max"] == pytest.approx(torch.stack(pairs).max().item(), abs=1e-4)


def test_a_resumed_training_goes_on_where_it_was() -> None:
    few: dict[str, Any] = {"preset": "calibrated", "tokens": 32, "min_tokens": 8, "pairs": 2}
    few["budget"] = 0.6

    def train(model: nn.Module, state: Any, numbers: range) -> Any:
        handle = attach(model, few)
        if state is not None:
            handle.load_state_dict(state, numbers.start)
        for number in numbers:
            model.zero_grad()
            loss_of(model, batch(number)).backward()
            handle.step()
        state = handle.state_dict()
        handle.detach()
        return state

    whole, halves = made("mixtral"), made("mixtral")
    train(whole, None, range(4))
    train(halves, train(halves, None, range(2)), range(2, 4))
    require_equal(gradients(halves), gradients(whole))


def test_a_budget_compares_experts_in_some_steps_that_count_for_all() -> None:
    model = made("mixtral")
    plain = copy.deepcopy(model)
    handle = attach(model, EVERYTHING | {"budget": 0.9})
    loss_of(model, batch()).backward()
    (every,) = {layer.similarity.cost.every for layer in handle.layers if layer.similarity}
    assert 1 < every < 20
    require_equal(gradients(model), by_hand(plain, [batch()], stands_for=every))
    for step in range(1, every + 1):
        handle.step()
        model.zero_grad()
        loss_of(model, batch()).backward()
        if step in (1, every - 1, every):
            wanted = by_hand(plain, [batch()], stands_for=0 if step < every else every)
            require_equal(gradients(model), wanted)


def test_nothing_is_compared_while_the_weight_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    choose = SimilarityLearning.choose
    monkeypatch.setattr(
        SimilarityLearning, "choose", lambda *given: compared.append(1) or choose(*given)
    )
    model = made("mixtral")
    plain = copy.deepcopy(model)
    weight = [[0.1, 0.0], [0.2, EVERYTHING["weight"]]]
    handle = attach(model, EVERYTHING | {"weight": weight}, total_steps=10)
    for step in range(3):
        model.zero_grad()
        loss_of(model, batch()).backward()
        wanted = by_hand(plain, [batch()], stands_for=0 if step < 2 else 1)
        require_equal(gradients(model), wanted)
        assert bool(compared) == (step == 2)
        handle.step()


def test_a_step_takes_no_more_than_its_budget() -> None:
    """As torch counts it, over the steps from one comparison to the next."""
    spent = {}
    for similarity in ("none", "calibrated"):
        model = made("olmoe", hidden_size=64, intermediate_size=64)
        model.set_experts_implementation("eager")  # grouped products are not counted
        handle = attach(model, similarity, probe_every=1000)
        loss_of(model, batch()).backward()  # is probed
        handle.step()
        with FlopCounterMode(display=False) as counter:
            loss_of(model, batch()).backward()
        spent[similarity] = [counter.get_total_flops()]
        if handle.layers[0].similarity is not None:
            cost = handle.layers[0].similarity.cost
            while handle.steps % cost.every:
                handle.step()
            with FlopCounterMode(display=False) as counter:
                loss_of(model, batch()).backward()
            spent[similarity].append(counter.get_total_flops())
    (plain,), (left_out, compared) = spent["none"], spent["calibrated"]
    assert left_out == plain
    assert 0 < (compared - plain) / cost.every <= 0.05 * plain


def test_a_state_that_is_saved_before_the_first_batch_is_not_lost() -> None:
    model = made("mixtral")
    handle = attach(model, EVERYTHING)
    loss_of(model, batch()).backward()
    handle.step()
    state = handle.state_dict()
    handle.detach()
    resumed = attach(model, EVERYTHING)
    resumed.load_state_dict(state, 1)
    again = resumed.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


class TestWhatIsRefused:
    def test_a_model_without_experts(self) -> None:
        with pytest.raises(UserError, match="no layer with experts and a router"):
            attach(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

    def test_a_second_attachment(self) -> None:
        model = made("mixtral")
        handle = attach(model)
        with pytest.raises(UserError, match="attached already"):
            attach(nn.ModuleDict({"wrapped": model}))
        handle.detach()
        attach(model).detach()

    def test_a_head_that_nobody_trains(self) -> None:
        with pytest.raises(UserError, match="head"):
            attach(made("mixtral"), "published")

    def test_an_unknown_preset(self) -> None:
        with pytest.raises(UserError, match="calibrated"):
            attach(made("mixtral"), "calibratd")

    def test_a_schedule_of_an_unknown_length(self) -> None:
        rising = {"preset": "calibrated", "weight": [[0, 0.0], [0.5, 0.003]]}
        with pytest.raises(UserError, match="total_steps"):
            attach(made("mixtral"), rising)
        attach(made("mixtral"), rising, total_steps=100)

    def test_an_expert_that_needs_more_than_rows(self) -> None:
        model = OwnModel()
        for layer in model.layers:
            for expert in layer.experts:
                expert.forward = lambda x, position, e=expert: Expert.forward(e, x)
        with pytest.raises(UserError, match="more than rows"):
            attach(model)

    def test_the_model_is_left_untouched(self) -> None:
        model = made("mixtral")
        with pytest.raises(UserError):
            attach(model, {"preset": "calibrated", "measure": "nothing"})
        for part in model.modules():
            assert not part._forward_hooks
            assert not part._forward_pre_hooks
