"""The section `moe` of a recipe: the number and width of experts, and the router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from simsmoe_cli.errors import nearest, printable
from simsmoe_cli.recipe.section import Problem, Section
from simsmoe_cli.registry import ROUTERS

# Widths that the grouped backend takes are multiples of this (16-byte rows in bf16).
GROUPED_ALIGNMENT = 8

Coefficient = Annotated[float, Field(ge=0, le=1e6)]


class MoESettings(Section):
    """The mixture-of-experts sub-layers."""

    experts: int = Field(8, ge=1, le=8_192, description="experts per layer, N")
    hidden: int = Field(256, ge=1, le=10_000_000, description="hidden width of an expert, H")
    top_k: int = Field(2, ge=1, le=8_192, description="experts per token, K")
    router: str = Field("smoe", max_length=100, description="router; `simsmoe list routers`")
    backend: Literal["auto", "grouped", "loop", "fastmoe"] = Field(
        "auto",
        description="how experts are computed (`simsmoe list experts`); auto: grouped where "
        "widths are multiples of 8, else loop",
    )
    init: Literal["linear", "published"] = Field(
        "linear",
        description="linear: each expert starts as nn.Linear does; published: the stacked weights "
        "of all experts start as one kernel, as in the published code, whose standard deviation "
        "is far too small",
    )
    balance_weight: Coefficient | Literal["auto"] = Field(
        "auto",
        description="coefficient of the balance loss; auto: 0.01, and 0.3 for stablemoe with two "
        "stages; of a Hugging Face model the router_aux_loss_coef of its config.json",
    )
    balance_scope: Literal["global", "micro"] = Field(
        "global",
        description="tokens whose load the balance loss looks at when several ranks train; global: "
        "those of all ranks, so that the loss is that of one process; micro: those of each rank "
        "alone, which is stricter and depends on the number of ranks",
    )
    z_weight: float = Field(
        0.0, ge=0, le=1e6, description="coefficient of the router z-loss; 1e-3 is usual"
    )

    def problems(self, width: int, *, has_experts: bool) -> Iterator[Problem]:
        """An unknown router, and numbers that do not fit each other or the router.

        Args:
            width: of the model.
            has_experts: whether the model has any layer of this kind.
        """
        if self.router not in ROUTERS:
            unknown = f"unknown router '{printable(self.router)}'"
            yield Problem(("moe.router",), unknown, nearest(self.router, ROUTERS))
        if not has_experts:
            return
        if self.top_k > self.experts:
            yield Problem(
                ("moe.top_k", "moe.experts", "model.pattern"),
                f"{self.top_k} experts per token are more than the {self.experts} there are",
                f"Use at most {self.experts}.",
            )
        for path, size in (("model.width", width), ("moe.hidden", self.hidden)):
            if self.backend == "grouped" and size % GROUPED_ALIGNMENT:
                yield Problem(
                    (path, "moe.backend", "model.pattern"),
                    f"the grouped backend needs a multiple of {GROUPED_ALIGNMENT}, got {size}",
                    "Or set moe.backend to auto.",
                )
        if self.router in ROUTERS:
            yield from self._ruled_out()

    def _ruled_out(self) -> Iterator[Problem]:
        """Fields that contradict the router's row in the registry."""
        row = ROUTERS[self.router]
        involved = ("moe.router", "model.pattern")
        if row.top_k and self.top_k != row.top_k:
            yield Problem(
                ("moe.top_k", *involved),
                f"router {self.router} sends a token to {row.top_k} "
                f"expert{'s' * (row.top_k > 1)}, not {self.top_k}",
                f"Set it to {row.top_k}, or moe.router to smoe.",
            )
        if not row.balance_loss and self.balance_weight not in ("auto", 0):
            yield Problem(
                ("moe.balance_weight", *involved),
                f"has no effect with router {self.router}, which has no balance loss",
                "Leave it out.",
            )
        if not row.balance_loss and self.balance_scope != "global":
            yield Problem(
                ("moe.balance_scope", *involved),
                f"has no effect with router {self.router}, which has no balance loss",
                "Leave it out.",
            )
        if not row.z_loss and self.z_weight:
            yield Problem(
                ("moe.z_weight", *involved),
                f"has no effect with router {self.router}, which learns nothing",
                "Set it to 0.",
            )
