"""The section `moe`: what does not fit its experts, its router or its backend is named."""

from __future__ import annotations

import pytest

from simsmoe_cli.recipe.load import load_recipe
from tests.recipe.given import problem


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["moe.top_k=9"], "moe.top_k: 9 experts per token are more than the 8 there are"),
        (["moe.hidden=250", "moe.backend=grouped"], "needs a multiple of 8, got 250"),
    ],
)
def test_contradictions_are_named(overrides: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *overrides)


@pytest.mark.parametrize("field", ["top_k", "balance_weight", "z_weight"])
def test_a_section_no_layer_uses_is_not_checked(field: str) -> None:
    nothing_routed = ["model.pattern=sf", "similarity.preset=none", "moe.router=hash"]
    load_recipe("quickstart", [*nothing_routed, f"moe.{field}=100"])
