"""The parts of a report's JSON about what experts receive: tokens, domains, and earlier routing.

Imports no torch.
"""

from __future__ import annotations

from pydantic import Field

from simsmoe_cli.collapse.subject import Count, Facts, Number


class FavouriteToken(Facts):
    """A token of the vocabulary that an expert receives more often than its share."""

    text: str = Field(description="the token as text; its id in digits where that is not known")
    count: Count = Field(description="how often it was read")
    share: float = Field(description="of these, the share that was sent to the expert")
    over_fair: float = Field(
        description="that share over the share of all tokens that are sent to the expert"
    )


class Margin(Facts):
    """How clear the choice of the last expert is, over the tokens read.

    In logits: the score of the last chosen expert minus that of the first one left out; the ratio
    of their probabilities is exp of it.
    """

    mean: Number
    quantile_10: Number = Field(description="a tenth of the tokens has a smaller margin")
    median: Number
    quantile_90: Number


class Saturation(Facts):
    """How much of the routing was there at an earlier checkpoint (OLMoE, 2409.02060)."""

    step: Count = Field(description="of the earlier checkpoint")
    tokens: Count = Field(description="whose routing was compared")
    share: float = Field(description="of a token's experts that are the same there, mean")
    chance: float = Field(description="the same of two unrelated routings with these loads")


class Domain(Facts):
    """A part of the held-out text whose routing is counted by itself."""

    name: str = Field(description="file of --text, or class of a task")
    tokens: Count = Field(description="read of it")
