"""The verdict: its level from its thresholds, what experts are worth, and what to do next."""

from __future__ import annotations

import re

import pytest

from simsmoe_cli.collapse.ablation import Change
from simsmoe_cli.collapse.findings import Estimate, Findings
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.registry import ROUTERS
from tests.collapse.planted import EXPERTS
from tests.collapse.reports import report, with_costs
from tests.collapse.varied import sentence, varied


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ((0.1, 0.1, 0.1, 0.1), "healthy"),
        ((0.1, 0.1, 0.1, 0.26), "partly alike"),
        ((0.6, 0.1, 0.1, 0.1), "partly alike"),
        ((0.6, 0.6, 0.1, 0.1), "collapsed"),
        ((0.9, 0.9, 0.9, 0.9), "collapsed"),
    ],
)
def test_the_level_follows_the_means_of_the_layers(
    base: Findings, means: tuple[float, ...], level: str
) -> None:
    assert judge(varied(base, *means)).level == level


def test_one_pair_alike_among_many_is_no_collapse_and_is_named(base: Findings) -> None:
    found = varied(base, 0.1, 0.1, 0.1, 0.1, spread=0.0)
    layer = found.layers[2]
    cka, low = ([list(row) for row in matrix] for matrix in (layer.cka, layer.cka_low))
    for matrix, value in ((cka, 0.6), (low, 0.55)):
        matrix[1][2] = matrix[2][1] = value
    layers = [*found.layers]
    layers[2] = layer.model_copy(update={"cka": cka, "cka_low": low})
    found = found.model_copy(update={"layers": layers})
    verdict = judge(found)
    assert verdict.level == "healthy"
    named = sentence(found, "1 and 2 of layer 2 (0.60)")
    assert named.evidence["alike"] == 1
    assert named.evidence["most_alike_cka"] == 0.6
    assert verdict.headline.endswith("copies have 1, unrelated experts about 0).")


def test_a_pair_whose_interval_reaches_the_null_is_called_neither_alike_nor_healthy(
    base: Findings,
) -> None:
    unsure = [[-0.1] * EXPERTS for _ in range(EXPERTS)]
    found = varied(base, 0.1, 0.1, 0.1, 0.1, spread=0.88, cka_low=unsure)
    verdict = judge(found)
    assert verdict.level == "undefined"
    assert verdict.headline == "Undecided: 4 pairs may be similar or not."
    assert all("nearly the same" not in s.text for s in verdict.sentences)
    assert all("No pair has" not in s.text for s in verdict.sentences)
    assert sentence(found, "whether they are similar is not known").evidence["pairs"] == 4


def test_copies_make_it_partly_alike_however_few(base: Findings) -> None:
    found = varied(base, 0.01, 0.01, 0.01, 0.01, spread=0.98)
    verdict = judge(found)
    assert verdict.level == "partly alike"
    assert "4 pairs have nearly the same representation" in verdict.headline
    assert (
        sum(
            "nearly the same representation up to rotation and scale" in s.text
            for s in verdict.sentences
        )
        == 3
    )
    assert sentence(found, "1 more pair has a CKA of 0.95 or more").evidence["pairs"] == 4


def test_nothing_defined_is_said_and_not_called_healthy(base: Findings) -> None:
    nothing = [[None] * EXPERTS for _ in range(EXPERTS)]
    silent = Estimate(value=None, n=0, of="pairs")
    layers = [
        layer.model_copy(update={"cka": nothing, "cka_mean": silent}) for layer in base.layers
    ]
    overall = base.overall.model_copy(update={"cka_mean": None})
    verdict = judge(base.model_copy(update={"layers": layers, "overall": overall}))
    assert verdict.level == "undefined"
    assert any("undefined for" in s.text and "17 more" in s.text for s in verdict.sentences)


def test_notes_on_the_text_are_repeated(base: Findings) -> None:
    text = base.text.model_copy(update={"notes": ["this is a prefix of enwik8"]})
    found = sentence(base.model_copy(update={"text": text}), "prefix of enwik8")
    assert found.text == "this is a prefix of enwik8."


# What it would cost to do without


def test_the_expert_that_would_be_missed_least_is_named_with_its_interval() -> None:
    """0.001 nats less than 2 is 0.05%; the other experts of three layers cost 0 to 0.03 nats."""
    verdict = judge(with_costs(report(layers=3)).main)
    assert verdict.cost == (
        "Expert 0 of layer 0 would not be missed: without it, the loss changes by -0.05% (95% "
        "interval -0.15% to 0.05%), without a typical one by 0.71%."
    )


def test_an_expert_is_missed_only_where_the_interval_is_above_zero() -> None:
    main = with_costs(report(layers=1)).main
    assert main.ablation is not None
    rest = [one for one in main.ablation.left_out if one.expert]
    measured = main.ablation.model_copy(update={"left_out": rest})
    found = judge(main.model_copy(update={"ablation": measured}))
    assert found.cost.startswith(
        "Every expert is missed: without the least missed, expert 1 of layer 0, the loss changes "
        "by 0.45% (95% interval 0.35% to 0.55%)"
    )
    assert "every expert is missed when it is left out" in found.advice


def test_an_expert_without_tokens_is_not_called_missed() -> None:
    main = with_costs(report(layers=1)).main
    assert main.ablation is not None
    first, *rest = main.ablation.left_out
    idle = first.model_copy(update={"tokens": 0, "change": Change(nats=0.0, low=0.0, high=0.0)})
    measured = main.ablation.model_copy(update={"left_out": [idle, *rest]})
    cost = judge(main.model_copy(update={"ablation": measured})).cost
    assert "very expert" not in cost
    assert cost.startswith(
        "Without expert 1 of layer 0, the least missed of those that get tokens, the loss changes "
        "by 0.45%"
    )


def test_the_other_run_has_its_own_least_missed_expert() -> None:
    made = with_costs(report("plain", "other", layers=3), scale=3)
    assert made.against is not None
    assert judge(made.main, made.against).cost.endswith(
        "; in other the least missed changes it by -0.05%."
    )


def test_what_was_not_measured_is_not_claimed() -> None:
    main = report().main
    assert judge(main).cost == ""
    refused = main.model_copy(update={"ablation_refused": "the model is too large"})
    assert judge(refused).cost == (
        "What an expert is worth was not measured: the model is too large."
    )
    least = with_costs(report(layers=1)).main
    assert least.ablation is not None
    silent = [one.model_copy(update={"tokens": 0}) for one in least.ablation.left_out]
    none_used = least.ablation.model_copy(update={"left_out": silent})
    assert judge(least.model_copy(update={"ablation": none_used})).cost == ""


# What to do next


@pytest.mark.parametrize(
    ("similarity", "settings", "words"),
    [
        ("none", {}, "Train with `--similarity calibrated`"),
        ("calibrated", {"similarity": {"weight": 0.003}}, "`--set similarity.weight=0.006`"),
        (
            "calibrated",
            {"similarity": {"weight": [[0.2, 0.0], [0.5, 0.003]]}},
            "`--set 'similarity.weight=[[0.2, 0], [0.5, 0.006]]'`",
        ),
        ("calibrated", {"similarity": {"weight": [[0, 0.0]]}}, "`--set similarity.weight`"),
        (
            "calibrated",
            {"similarity": {"weight": [[0.6, 0.0], [0.9, 0.003]]}, "train": {"steps": 1000}},
            "Similarity learning had not begun at step 500",
        ),
        (
            "calibrated",
            {"similarity": {"weight": [[0.2, 0.0], [0.9, 0.003]]}, "train": {"steps": 1000}},
            "raise its weight",
        ),
    ],
)
def test_similar_experts_have_a_remedy(
    base: Findings, similarity: str, settings: dict[str, object], words: str
) -> None:
    changed = {"similarity": similarity, "settings": settings, "step": 500}
    subject = base.subject.model_copy(update=changed)
    found = varied(base, 0.6, 0.6, 0.6, 0.6).model_copy(update={"subject": subject})
    assert words in judge(found).advice


def test_each_fault_has_a_remedy_of_its_own(base: Findings) -> None:
    good = varied(base, 0.01, 0.01, 0.01, 0.01)
    assert judge(good).advice.startswith("Nothing has to change; `--against RUN`")
    assert judge(good, good).advice == "Nothing has to change."
    dead = varied(base, 0.01, 0.01, 0.01, 0.01, dead=[0])
    assert "--router loss-free" in judge(dead).advice
    for about, words in (
        ({"settings": {"moe": {"balance_weight": 0.02}}}, "`--set moe.balance_weight=0.06`"),
        ({"settings": {"huggingface": {"folder": "/m"}}}, "load: a larger `--set"),
        ({"kind": "huggingface"}, "`simsmoe pretrain --from FOLDER --set moe.balance_weight=0.03`"),
    ):
        subject = dead.subject.model_copy(update=about)
        advice = judge(dead.model_copy(update={"subject": subject})).advice
        assert words in advice
        assert ("--router loss-free" in advice) == ("moe" in str(about.get("settings")))
    few = good.model_copy(update={"text": good.text.model_copy(update={"rows": 8})})
    assert "`--tokens 4096`" in judge(few).advice
    foreign = good.subject.model_copy(update={"kind": "huggingface"})
    similar = varied(base, 0.6, 0.6, 0.6, 0.6).model_copy(update={"subject": foreign})
    assert "`simsmoe pretrain --from FOLDER`" in judge(similar).advice
    broken = varied(base, 0.01, 0.01, 0.01, 0.01, non_finite=[1])
    assert "`--checkpoint STEP`" in judge(broken).advice


@pytest.mark.parametrize("router", ROUTERS)
def test_what_is_advised_against_dead_experts_can_be_set(base: Findings, router: str) -> None:
    needs = {"switch": ["moe.top_k=1"], "expert-choice": ["expert_choice.allow_leak=true"]}
    given = [f"moe.router={router}", *needs.get(router, [])]
    before = load_recipe("quickstart", given)
    about = {"router": router, "settings": before.model_dump(mode="json")}
    dead = varied(base, 0.01, 0.01, 0.01, 0.01, dead=[0])
    subject = dead.subject.model_copy(update=about)
    advice = judge(dead.model_copy(update={"subject": subject})).advice
    settings = re.findall(r"--set ([a-z_.]+=[0-9.e-]+)`", advice)
    other = re.findall(r"--router ([a-z-]+)`", advice)
    assert settings or other
    for setting in settings:
        now = load_recipe("quickstart", [*given, setting])
        assert now != before
        if "balance" in setting:
            assert now.loss_weights["balance"] > before.loss_weights["balance"]
    for name in other:
        assert name != router
        load_recipe("quickstart", [f"moe.router={name}"])


def test_another_run_whose_experts_differ_more_is_the_remedy() -> None:
    made = report("plain", "other", layers=3)
    assert "Take the settings of other (`--similarity calibrated`)" in (
        judge(made.main, made.against).advice
    )


def test_experts_that_nobody_misses_are_too_many() -> None:
    """Expert 0 of each layer is not missed: 3 of 12."""
    main = with_costs(report(layers=3)).main
    layers = [
        layer.model_copy(
            update={
                "cka_mean": layer.cka_mean.model_copy(update={"value": 0.1, "high": 0.12}),
                "cka": [[float(i == j) for j in range(4)] for i in range(4)],
            }
        )
        for layer in main.layers
    ]
    advice = judge(main.model_copy(update={"layers": layers})).advice
    assert advice.startswith("Try fewer experts (`--set moe.experts=N`): 3 of 12")
    folder = main.subject.model_copy(update={"settings": {"huggingface": {"folder": "/m"}}})
    found = main.model_copy(update={"layers": layers, "subject": folder})
    assert judge(found).advice.startswith("Train it on: 3 of 12")
