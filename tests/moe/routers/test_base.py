"""What every router of the registry must do; a new one is tested by being registered.

Its mixing weights are checked too once WEIGHTS says what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from simsmoe_cli import registry
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import MoELayer, MoEOutput
from simsmoe_cli.moe.routers.base import Routing, StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, save_checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from tests.no_waiting import NoWaiting
from tests.routers import CASES, overrides

EXPERTS, WIDTH, TOKENS, VOCABULARY, STEPS = 4, 16, 48, 30, 20
SMALL = [
    "model.repeats=1",
    f"model.width={WIDTH}",
    "model.heads=2",
    "model.ffn_hidden=16",
    f"moe.experts={EXPERTS}",
    "moe.hidden=24",
    "similarity.preset=none",
]

every_case = pytest.mark.parametrize("case", CASES)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def recipe(case: str, *more: str) -> Recipe:
    return load_recipe("quickstart", [*SMALL, *CASES[case], *more])


def make(case: str, *more: str, seed: int = 0) -> MoELayer:
    torch.manual_seed(seed)
    return MoELayer(recipe(case, *more), VOCABULARY)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Hidden states [2, T/2, D] and ids [T] of tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, TOKENS // 2, WIDTH, generator=generator)
    return x, torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


def run(layer: MoELayer, step: int = 0, seed: int = 1, **options: Any) -> MoEOutput:
    x, ids_T = batch(seed)
    context = StepContext(step, STEPS, **options)
    output: MoEOutput = layer(x, context, ids_T)
    return output


def total_loss(case: str, output: MoEOutput) -> Tensor:
    """A task's loss and the auxiliary ones, weighted as in training."""
    weights = recipe(case).loss_weights
    target = torch.linspace(-1, 1, output.hidden.numel()).view_as(output.hidden)
    total = (output.hidden.float() - target).square().mean()
    for name, loss in output.losses.items():
        total = total + weights[name] * loss
    return total


def train(layer: MoELayer, case: str, steps: range) -> Iterator[None]:
    """Plain gradient descent; stops after every backward pass for whoever wants to look."""
    for step in steps:
        layer.train()
        layer.zero_grad()
        total_loss(case, run(layer, step, seed=step)).backward()
        yield
        with torch.no_grad():
            for parameter in layer.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad


def trained(case: str, steps: range, seed: int = 0) -> MoELayer:
    layer = make(case, seed=seed)
    for _ in train(layer, case, steps):
        pass
    return layer


def state_of(layer: MoELayer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# What the weights of chosen experts are, by router.


def softmax_of_chosen(routing: Routing) -> None:
    chosen_TK = routing.logits_TN.gather(1, routing.index_TK.clamp(max=EXPERTS - 1))
    empty_TK = routing.index_TK == EXPERTS
    # An empty slot has the weight that the others left it.
    rest = 1 - routing.weight_TK.masked_fill(empty_TK, 0).sum(-1)
    torch.testing.assert_close(rest, routing.weight_TK.masked_fill(~empty_TK, 0).sum(-1))
    expected_TK = chosen_TK.softmax(-1)
    known_T = ~empty_TK.any(-1)
    torch.testing.assert_close(routing.weight_TK[known_T], expected_TK[known_T])


def equal(routing: Routing) -> None:
    expected = torch.full_like(routing.weight_TK, 1 / routing.weight_TK.shape[1])
    torch.testing.assert_close(routing.weight_TK, expected)


def sum_to_one(routing: Routing) -> None:
    assert (routing.weight_TK > 0).all()
    torch.testing.assert_close(routing.weight_TK.sum(-1), torch.ones(TOKENS))


def probability(routing: Routing) -> None:
    probability_TN = routing.logits_TN.softmax(-1)
    taken_TK = routing.index_TK < EXPERTS
    expected_TK = probability_TN.gather(1, routing.index_TK.clamp(max=EXPERTS - 1))
    torch.testing.assert_close(routing.weight_TK[taken_TK], expected_TK[taken_TK])


def relu(routing: Routing) -> None:
    taken_TK = routing.index_TK < EXPERTS
    logit_TK = routing.logits_TN.gather(1, routing.index_TK.clamp(max=EXPERTS - 1))
    assert (logit_TK[taken_TK] > 0).all()
    torch.testing.assert_close(routing.weight_TK[taken_TK], logit_TK[taken_TK])


WEIGHTS: dict[str, Callable[[Routing], None]] = {
    "smoe": softmax_of_chosen,
    "switch": probability,
    "gshard": softmax_of_chosen,
    "xmoe": softmax_of_chosen,
    "stablemoe": softmax_of_chosen,
    "smoe-dropout": softmax_of_chosen,
    "hyperrouter": softmax_of_chosen,
    "competesmoe": sum_to_one,
    "hash": equal,
    "random": equal,
    "loss-free": sum_to_one,
    "remoe": relu,
    "expert-choice": probability,
}
# Routers that choose how many experts a token gets; K is what they aim at.
ANY_NUMBER = {"remoe", "expert-choice"}
# Routers with a part that torch.compile must leave to Python.
BREAKS = {"competesmoe", "competesmoe, competing", "competesmoe, version 1", "xmoe, published"}


def router_of(case: str) -> str:
    return case.partition(",")[0]


def check(case: str, routing: Routing, columns: int | None) -> None:
    """Shapes, types, ranges, and weights as the definition demands."""
    index_TK, weight_TK, logits_TN = routing.index_TK, routing.weight_TK, routing.logits_TN
    assert index_TK.shape == weight_TK.shape
    assert index_TK.shape[0] == TOKENS
    assert columns is None or index_TK.shape[1] == columns
    assert logits_TN.shape == (TOKENS, EXPERTS)
    assert (index_TK.dtype, logits_TN.dtype) == (torch.int64, torch.float32)
    assert weight_TK.is_floating_point()
    assert torch.isfinite(logits_TN).all()
    assert torch.isfinite(weight_TK).all()
    highest = EXPERTS if routing.partial else EXPERTS - 1
    assert (index_TK >= 0).all()
    assert (index_TK <= highest).all()
    counts_TN = torch.zeros(TOKENS, EXPERTS + 1).scatter_add(
        1, index_TK, torch.ones_like(weight_TK, dtype=torch.float32)
    )
    assert (counts_TN[:, :EXPERTS] <= 1).all(), "an expert is chosen twice for a token"
    if (weights_of := WEIGHTS.get(router_of(case))) is not None:
        weights_of(routing)
    for scalar in (*routing.losses.values(), *routing.metrics.values()):
        assert scalar.shape == ()
        assert torch.isfinite(scalar)


@every_case
@every_mode
@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_what_a_router_returns(case: str, training: bool, step: int) -> None:
    layer = make(case).train(training)
    output = run(layer, step)
    given = recipe(case)
    # The number of experts may be a schedule's; then it is at most all of them.
    columns = given.moe.top_k if step == 0 and router_of(case) not in ANY_NUMBER else None
    check(case, output.routing, columns)
    assert set(output.losses) <= set(given.loss_weights)
    assert output.hidden.shape == (2, TOKENS // 2, WIDTH)


@every_case
def test_every_parameter_that_learns_gets_a_gradient_and_nothing_else_moves(case: str) -> None:
    layer = make(case)
    before = state_of(layer)
    reached: set[str] = set()
    for _ in train(layer, case, range(STEPS)):
        for name, parameter in layer.named_parameters():
            assert parameter.requires_grad or parameter.grad is None
            if parameter.grad is not None and parameter.grad.any():
                reached.add(name)
    learning = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert reached == learning
    for name, parameter in layer.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in learning)


@every_case
def test_no_step_waits_on_the_device(case: str) -> None:
    """Training and evaluation, before and after whatever a schedule changes."""
    layer = make(case, "similarity.preset=calibrated")
    for step in (0, STEPS // 2, STEPS - 1):
        with NoWaiting():
            output = run(layer.train(), step)
            sum(output.losses.values(), output.hidden.sum()).backward()
            with torch.no_grad():
                run(layer.eval(), step)


@every_case
@every_mode
def test_grouped_and_loop_give_the_same(case: str, training: bool) -> None:
    results = []
    for backend in ("grouped", "loop"):
        layer = make(case, f"moe.backend={backend}").train(training)
        torch.manual_seed(3)
        output = run(layer)
        total_loss(case, output).backward()
        grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
        results.append({"hidden": output.hidden, **grads})
    grouped, loop = results
    assert grouped.keys() == loop.keys()
    for name in grouped:
        torch.testing.assert_close(grouped[name], loop[name], atol=1e-6, rtol=1e-4, msg=name)


@every_case
def test_a_resumed_router_goes_on_as_one_that_never_stopped(case: str, tmp_path: Path) -> None:
    for cut in (1, STEPS // 2):
        layer = trained(case, range(cut))
        save_model(layer, str(tmp_path / "layer.safetensors"))
        resumed = make(case, seed=5)
        load_model(resumed, tmp_path / "layer.safetensors")
        assert_same(state_of(resumed), state_of(layer))
        for model in (layer, resumed):
            torch.manual_seed(6)
            for _ in train(model, case, range(cut, cut + 4)):
                pass
        assert_same(state_of(resumed), state_of(layer))
        one, other = (run(model.eval(), cut + 4) for model in (layer, resumed))
        assert torch.equal(one.hidden, other.hidden)
        assert torch.equal(one.routing.index_TK, other.routing.index_TK)


@every_case
def test_evaluation_repeats_and_changes_nothing(case: str) -> None:
    layer = trained(case, range(STEPS // 2)).eval()
    before = state_of(layer)
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs.append(run(layer, STEPS // 2))
        assert torch.initial_seed() == seed
    assert torch.equal(outputs[0].hidden, outputs[1].hidden)
    assert torch.equal(outputs[0].routing.index_TK, outputs[1].routing.index_TK)
    assert_same(state_of(layer), before)


@every_case
@pytest.mark.parametrize("k", [1, 2, EXPERTS])
def test_evaluation_at_any_k(case: str, k: int) -> None:
    layer = trained(case, range(2)).eval()
    routing = run(layer, step=2, top_k=k).routing
    counted_T = (routing.index_TK < EXPERTS).sum(1)
    if router_of(case) in ANY_NUMBER:
        check(case, routing, None)
        assert counted_T.float().mean() <= k
    else:
        check(case, routing, k)
        assert (counted_T == k).all()


@every_case
@every_mode
def test_routing_stays_in_fp32_under_autocast(case: str, training: bool) -> None:
    layer = make(case).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(layer)
    check(case, output.routing, None)
    assert all(loss.dtype == torch.float32 for loss in output.routing.losses.values())
    total_loss(case, output).backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


# What torch's own compiler does, and would rather not see done.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("case", [case for case in CASES if "," not in case])
def test_compiled_and_not_are_the_same(case: str) -> None:
    torch.compiler.reset()
    layer = make(case, "moe.backend=grouped")
    compiled = torch.compile(layer, fullgraph=case not in BREAKS, backend="aot_eager")
    x, ids_T = batch()
    for step in (0, 1, STEPS - 1):
        context = StepContext(step, STEPS)
        state = state_of(layer)
        results = []
        for forward in (layer, compiled):
            layer.load_state_dict(state)
            layer.zero_grad()
            torch.manual_seed(3)
            # The shapes of a grouped product, which a compiler asks for, are known in bf16 alone.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = forward(x, context, ids_T)
            total_loss(case, output).backward()
            grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
            result = {"index": output.routing.index_TK, "hidden": output.hidden}
            results.append(result | state_of(layer) | {f"{n}.grad": g for n, g in grads.items()})
        plain, other = results
        assert plain.keys() == other.keys()
        for name in plain:
            torch.testing.assert_close(other[name], plain[name], atol=2e-4, rtol=1e-2, msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of an untrained model for each router."""
    folders = {}
    for router in registry.ROUTERS:
        given = load_recipe("quickstart", [*SMALL, *overrides(router)])
        run_dir = RunDir(tmp_path_factory.mktemp("runs") / router)
        state = {
            "recipe": given.model_dump(mode="json"),
            "vocab_size": VOCABULARY,
            "unit": "byte",
            "vocabulary": "0",
            "corpus": "0",
            "store": "data/none",
            "events_bytes": 0,
            "precision": "fp32",
        }
        model = LanguageModel(given, VOCABULARY)
        folders[router] = save_checkpoint.save(run_dir, 1, model, {}, state)
    return folders


@pytest.mark.parametrize("router", registry.ROUTERS)
def test_a_checkpoint_of_another_router_is_refused_by_name(
    saved: dict[str, Path], router: str
) -> None:
    model = LanguageModel(load_recipe("quickstart", [*SMALL, *overrides(router)]), VOCABULARY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for other, folder in saved.items():
        state = checkpoint.read_state(folder)
        if other == router:
            weights.load_weights(folder, state, model)
            assert any(
                not torch.equal(value, before[name]) for name, value in model.state_dict().items()
            )
            continue
        with pytest.raises(UserError) as caught:
            weights.load_weights(folder, state, model)
        assert f"trained with router {other}, and this model has {router}" in str(caught.value)
        assert caught.value.code == EXIT_DATA


@every_case
def test_routers_that_look_at_token_ids_say_so_when_there_are_none(case: str) -> None:
    layer = make(case).eval()
    x, _ = batch()
    if case in {"hash", "stablemoe"}:
        with pytest.raises(ValueError, match="vocabulary"):
            MoELayer(recipe(case))
    if case in {"hash", "random", "stablemoe"}:
        with pytest.raises(ValueError, match="token ids"):
            layer(x, StepContext())
    else:
        assert layer(x, StepContext()).hidden.shape == x.shape
