"""Dead experts: judged by a hundredth of a fair share, on slots that are enough to tell."""

from __future__ import annotations

from simsmoe_cli.run.dead_experts import dead_experts, enough


def test_an_expert_below_a_hundredth_of_a_fair_share_is_dead() -> None:
    fair = 100_000 // 4
    assert dead_experts([fair, fair, fair + fair, 0]) == [3]
    assert dead_experts([2 * fair, fair, fair - 250, 250]) == []
    assert dead_experts([2 * fair, fair, fair - 249, 249]) == [3]


def test_too_few_slots_are_not_judged() -> None:
    """At a hundredth of a fair share, ten slots must be expected: a thousand for each expert."""
    assert enough(8_000, 8)
    assert not enough(7_999, 8)
    assert dead_experts([7_999, *[0] * 7]) is None
    assert dead_experts([8_000, *[0] * 7]) == list(range(1, 8))
    assert dead_experts([]) is None
