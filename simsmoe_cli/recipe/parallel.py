"""The section `parallel` of a recipe: how the processes of a training share its work.

All processes (ranks) are data-parallel: each computes its part of every batch. They form a grid of
`replicate` x `shard` ranks. The `shard` ranks of a row hold one copy of weights, gradients and
optimizer state between them (FSDP2); the rows hold copies (HSDP). Expert parallelism borrows its
ranks from the `shard` ranks: `expert` neighbours divide the experts of a layer among them and
exchange tokens. The results are those of one process, except for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from simsmoe_cli.recipe.section import Problem, Section

MOST_RANKS = 1_000_000
Ranks = Annotated[int, Field(ge=1, le=MOST_RANKS)]


@dataclass(frozen=True)
class Layout:
    """The grid of ranks: `replicate` rows of `shard` ranks, `expert` of which divide the experts.

    `replicate` times `shard` is the number of ranks, and `expert` divides `shard`.
    """

    replicate: int = 1
    shard: int = 1
    expert: int = 1


class ParallelSettings(Section):
    """Training in several processes, which torchrun starts; one process needs none of these."""

    shard: Ranks | Literal["auto"] = Field(
        "auto",
        description="ranks that hold one copy of weights, gradients and optimizer state between "
        "them (FSDP2); auto: all ranks, divided by replicate",
    )
    replicate: Ranks | Literal["auto"] = Field(
        "auto",
        description="copies of the model, each held by `shard` ranks (HSDP), for example one per "
        "machine; auto: as many as shard leaves ranks for, and 1 if both are auto",
    )
    expert: Ranks = Field(
        1,
        description="ranks that divide the experts of each layer among them and exchange tokens; "
        "must divide moe.experts and shard",
    )
    timeout_s: float = Field(
        600.0,
        gt=0,
        le=1e7,
        description="seconds after which a rank that does not answer the others is given up, and "
        "named; must be longer than the slowest step",
    )

    def problems(self, experts: int, backend: str, *, has_experts: bool) -> Iterator[Problem]:
        """What contradicts the other sections, whatever the number of ranks.

        Args:
            experts, backend: of the section moe.
            has_experts: whether the model has any layer of experts.
        """
        if self.expert == 1:
            return
        if not has_experts:
            yield Problem(
                ("parallel.expert", "model.pattern"),
                "has no effect in a model without experts",
                "Leave it out, or put a g into model.pattern.",
            )
            return
        if experts % self.expert:
            yield Problem(
                ("parallel.expert", "moe.experts"),
                f"{self.expert} ranks do not divide the {experts} experts",
                f"The nearest number that does is {_nearest_divisor(self.expert, experts)}.",
            )
        if backend == "fastmoe":
            yield Problem(
                ("parallel.expert", "moe.backend"),
                "the backend fastmoe has no expert parallelism of ours",
                "Set moe.backend to auto, or parallel.expert to 1.",
            )

    def layout(self, ranks: int) -> Layout:
        """The grid of this many ranks; meaningless if `problems_of` finds anything."""
        if self.shard == "auto":
            replicate = 1 if self.replicate == "auto" else self.replicate
            return Layout(replicate, max(1, ranks // replicate), self.expert)
        replicate = max(1, ranks // self.shard) if self.replicate == "auto" else self.replicate
        return Layout(replicate, self.shard, self.expert)

    def problems_of(self, ranks: int, batch: int, micro_batches: int) -> Iterator[Problem]:
        """What does not fit a number of ranks.

        Args:
            ranks: the number of processes.
            batch, micro_batches: of the section train.
        """
        layout = self.layout(ranks)
        started = f"{ranks} process{'es' if ranks > 1 else ''}"
        if layout.replicate * layout.shard != ranks:
            yield Problem(
                ("parallel.replicate" if self.shard == "auto" else "parallel.shard",),
                f"{layout.replicate} x {layout.shard} ranks (replicate x shard) are not the "
                f"{started} that train",
                "Leave both at auto, or start as many processes: torchrun --nproc-per-node.",
            )
        elif layout.shard % layout.expert:
            yield Problem(
                ("parallel.expert", "parallel.shard"),
                f"{layout.expert} ranks that share the experts do not divide the {layout.shard} "
                f"that hold one copy of the model, with {started}",
                f"The nearest number that does is {_nearest_divisor(layout.expert, layout.shard)}; "
                "torchrun --nproc-per-node starts more processes.",
            )
        rows = batch // micro_batches
        if rows < ranks:
            most = batch // ranks
            yield Problem(
                ("train.micro_batches" if 1 <= most < micro_batches else "train.batch",),
                f"a micro-batch of {rows} sequences cannot be divided among {started}",
                f"Use at most {most} micro-batches, or a larger train.batch."
                if most
                else f"Use a train.batch of at least {ranks}, or fewer processes.",
            )


def _nearest_divisor(number: int, of: int) -> int:
    divisors = [n for n in range(1, of + 1) if of % n == 0]
    return min(divisors, key=lambda divisor: (abs(divisor - number), divisor))
