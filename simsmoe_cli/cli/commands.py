"""What the commands of simsmoe refuse before they begin: an option without its value, a number that
is not finite, and to be one of several processes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from simsmoe_cli.errors import UserError
from simsmoe_cli.parallel.launch import require_alone

OPTION = re.compile("-[a-z]|--[a-z][a-z-]*")


def _require_values(context: Any, parameters: Sequence[Any], args: Sequence[str]) -> None:
    """Raise a UserError if an option takes the next option for its value."""
    if context.resilient_parsing:  # a shell asks what it may offer
        return
    takes_value = {
        name: max(parameter.opts, key=len)
        for parameter in parameters
        if isinstance(parameter, TyperOption) and not parameter.is_flag
        for name in parameter.opts
    }
    for option, following in itertools.pairwise(itertools.takewhile("--".__ne__, args)):
        if option in takes_value and OPTION.fullmatch(following):
            raise UserError(
                f"its value is missing: {following} follows",
                where=option,
                hint=f"If {following} is meant as the value: {takes_value[option]}={following}",
            )


class Command(TyperCommand):
    """A command that refuses options without their value, options that are nan or infinite, and to
    be one of several processes."""

    in_several_processes = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _require_values(ctx, self.params, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if not self.in_several_processes:
            require_alone(ctx.command_path, "Only pretrain, finetune and eval use several.")
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"expected a finite number, got {value}", where=parameter.opts[0])
        return super().invoke(ctx)


class Group(TyperGroup):
    """A command with commands of its own; refuses options without their value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _require_values(ctx, self.params, args)
        return super().parse_args(ctx, args)


class CommandOfRanks(Command):
    """A command that several processes carry out together."""

    in_several_processes = True
