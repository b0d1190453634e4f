"""`--world-size` of a dry run: what each process of a training holds, computes and sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simsmoe_cli.cli.options import in_bytes
from simsmoe_cli.errors import UserError
from simsmoe_cli.parallel.launch import require_alone

if TYPE_CHECKING:
    from simsmoe_cli.model.rank_cost import RankCost
    from simsmoe_cli.recipe.schema import Recipe


def planned_cluster(
    size: int | None, gpu_tflops: float | None, link_gbs: float | None, *, dry_run: bool
) -> Cluster | None:
    """What --world-size, --gpu-tflops and --link-gbs say; None if there is nothing to plan.

    Raises:
        UserError: one of them has no effect, a speed is not positive, or several processes were
            started to plan.
    """
    if dry_run:
        require_alone("--dry-run", "--world-size W plans for W processes.")
    speeds = {"--gpu-tflops": gpu_tflops, "--link-gbs": link_gbs}
    given = [name for name, value in speeds.items() if value is not None]
    if size is not None and not dry_run:
        raise UserError(
            "only plans, and needs --dry-run",
            where="--world-size",
            hint="To train in several processes start them with torchrun.",
        )
    if given and size is None:
        raise UserError(
            "has no effect without --world-size", where=given[0], hint="Add --world-size."
        )
    if len(given) == 1:
        (missing,) = speeds.keys() - given
        raise UserError(
            f"a step's time needs {missing} as well", where=given[0], hint=f"Add {missing}."
        )
    for name, value in speeds.items():
        if value is not None and not 0 < value < 1e9:
            raise UserError(f"must be a positive number, got {value:g}", where=name)
    return None if size is None else Cluster(size, gpu_tflops, link_gbs)


@dataclass(frozen=True)
class Cluster:
    """The processes to plan for, and their speeds if those are known."""

    size: int
    gpu_tflops: float | None
    link_gbs: float | None

    def plan(self, recipe: Recipe, vocab_size: int) -> dict[str, Any]:
        """What one of `size` processes costs, as JSON.

        Raises:
            UserError: so many processes cannot train this recipe.
        """
        from simsmoe_cli.model.rank_cost import BASIS, rank_cost
        from simsmoe_cli.recipe.load import require_ranks

        require_ranks(recipe, self.size)
        cost = rank_cost(recipe, vocab_size, self.size)
        memory = _memory(cost)
        return {
            "world_size": self.size,
            "layout": asdict(recipe.parallel.layout(self.size)),
            "parameters": cost.parameters,
            "memory_bytes": {**memory, "total": cost.memory_bytes},
            "flops_per_step": cost.flops,
            "sent_bytes_per_step": _sent(cost),
            "time": self._time(cost, recipe),
            "basis": BASIS,
        }

    def _time(self, cost: RankCost, recipe: Recipe) -> dict[str, float] | None:
        """Of a step and of the training; None where speeds were not given."""
        if self.gpu_tflops is None or self.link_gbs is None:
            return None
        time, train = cost.times(self.gpu_tflops, self.link_gbs), recipe.train
        return {
            **asdict(time),
            "step_s": time.step_s,
            "tokens_per_s": train.batch * train.block / time.step_s,
            "training_s": train.steps * time.step_s,
        }


def _memory(cost: RankCost) -> dict[str, int]:
    return {
        "weights": cost.weight_bytes,
        "gradients": cost.gradient_bytes,
        "optimizer": cost.optimizer_bytes,
        "gathered": cost.gathered_bytes,
        "carried memory": cost.carried_bytes,
        "activations": cost.activation_bytes,
    }


def _sent(cost: RankCost) -> dict[str, int]:
    return {
        "all-gather": cost.all_gather_bytes,
        "reduce-scatter": cost.reduce_scatter_bytes,
        "all-reduce": cost.all_reduce_bytes,
        "all-to-all": cost.all_to_all_bytes,
    }


def rows(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A plan as rows of a table: name, number, explanation."""
    layout, memory = plan["layout"], dict(plan["memory_bytes"])
    total = memory.pop("total")
    sent = plan["sent_bytes_per_step"]
    grid = f"{layout['replicate']} x {layout['shard']} (replicate x shard)"
    if layout["expert"] > 1:
        grid += f", {layout['expert']} divide the experts"
    yield "processes", f"{plan['world_size']:,}", grid
    yield "parameters", f"{plan['parameters']:,}", "of the model, on each"
    yield "memory", in_bytes(total), _parts(memory)
    yield "FLOPs per step", f"{plan['flops_per_step']:.3g}", ""
    yield "sent per step", in_bytes(sum(sent.values())), _parts(sent)
    if time := plan["time"]:
        parts = {
            "computing": time["compute_s"],
            "FSDP": time["fsdp_s"],
            "all-to-all": time["all_to_all_s"],
        }
        said = ", ".join(f"{name} {_seconds(value)}" for name, value in parts.items())
        yield "time per step", _seconds(time["step_s"]), said
        yield "tokens per second", f"{time['tokens_per_s']:,.0f}", "of all processes"
        yield "training", f"{time['training_s'] / 3600:,.2f} h", ""


def _parts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {in_bytes(count)}" for name, count in counts.items())


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
