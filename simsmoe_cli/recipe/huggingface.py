"""The section `huggingface` of a recipe: a model of transformers that training goes on from.

Where it is used, the model is that of its `config`, and the sections `model`, `moe` and those of
routers may not be set, except for the coefficients of the losses in `moe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from simsmoe_cli.recipe.section import Problem, Section

LOSS_WEIGHTS = ("balance_weight", "z_weight")  # of the section moe
BALANCE = "router_aux_loss_coef"  # of config.json
WINDOW = "max_position_embeddings"
HINT = "Leave it out; the folder's config.json describes the model."


class HuggingFaceSettings(Section):
    """A model of transformers instead of one of the sections `model` and `moe`.

    `simsmoe pretrain --from FOLDER` fills in all of it.
    """

    folder: Annotated[str, Field(max_length=4_000, pattern=r"^\P{C}*$")] = Field(
        "",
        description="folder of the Hugging Face model that training started from; empty: the "
        "model is built from the sections model and moe",
    )
    config: dict[str, Any] = Field(
        {}, description="that model's config.json, filled in from the folder"
    )
    layers: list[str] = Field(
        [],
        max_length=2_000,
        description="numbers of its layers with experts, filled in from the folder",
    )

    @property
    def used(self) -> bool:
        """Whether the model is one of transformers."""
        return bool(self.folder)

    @property
    def balance_weight(self) -> float:
        """The coefficient of the balance loss in the model's own configuration; 0 where it has
        none."""
        return float(self._number(BALANCE) or 0.0)

    @property
    def window(self) -> int | None:
        """The most tokens that the model reads at once; None where its configuration does not
        say."""
        found = self._number(WINDOW)
        return int(found) if found else None

    def _number(self, name: str) -> float | None:
        text = self.config.get("text_config")
        for part in (self.config, text if isinstance(text, dict) else {}):
            value = part.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
        return None

    def problems(
        self, given: dict[str, set[str]], tokenizer: str, compiled: str, block: int, within: bool
    ) -> Iterator[Problem]:
        """Settings that contradict a model of transformers.

        Args:
            given: the fields that a recipe sets, by section; only sections that describe a model.
            tokenizer, compiled, block: data.tokenizer, train.compile and train.block.
            within: data.attend_within_documents.
        """
        for section, names in sorted(given.items()):
            for name in sorted(names):
                if section != "moe" or name not in LOSS_WEIGHTS:
                    yield Problem(
                        (f"{section}.{name}", "huggingface.folder"),
                        "cannot be set for a Hugging Face model",
                        HINT,
                    )
        if tokenizer != "huggingface":
            yield Problem(
                ("data.tokenizer", "huggingface.folder"),
                f"a Hugging Face model reads tokens of its own tokenizer, not of '{tokenizer}'",
                "Set it to huggingface.",
            )
        if compiled == "on":
            yield Problem(
                ("train.compile", "huggingface.folder"),
                "a Hugging Face model is not compiled",
                "Set it to auto.",
            )
        if within:
            yield Problem(
                ("data.attend_within_documents", "huggingface.folder"),
                "a Hugging Face model attends to the whole block",
                "Set it to false.",
            )
        if self.window is not None and block > self.window:
            yield Problem(
                ("train.block", "huggingface.folder"),
                f"the model reads at most {self.window:,} tokens at once, not {block:,}",
                f"Use at most {self.window:,}.",
            )
