"""Exports a trained model to one folder: weights, configuration, tokenizer, a readme.

Models of ours have two formats. `simsmoe` holds any model of this package; `load_export` reads it
back. `mixtral` is the layout of Hugging Face's Mixtral, for models of that architecture
(mixtral.py). A run that trained a Hugging Face model is written as such a model. The folder is
built under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model

from simsmoe_cli import __version__
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.data.tokenizers.tokenizer_json import fast_tokenizer
from simsmoe_cli.errors import EXIT_DATA, DataError, NotPermitted, UserError, nearest, printable
from simsmoe_cli.export.mixtral import mixtral_config, mixtral_tensors, require_mixtral
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_bytes, read_json, validated
from simsmoe_cli.huggingface.language_model import HuggingFaceLanguageModel
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.checkpoint_state import LARGEST_VOCABULARY, Count, Facts, TokenizerFacts
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.run.weights import require_model

FORMATS = ("simsmoe", "mixtral")
SCHEMA = 1
WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
LARGEST_TOKENIZER = 1 << 30  # bytes of its file
CPU = torch.device("cpu")
BODIES = {
    "simsmoe": """
| file | what |
|---|---|
| model.safetensors | parameters and buffers, with the state of routers |
| config.json | the resolved recipe, the size of the vocabulary, the step of the weights |
| TOKENIZER | the vocabulary |

```python
from pathlib import Path

import torch
from simsmoe_cli.export.folder import load_export

model, tokenizer, context = load_export(Path("."))
tokens = torch.tensor([tokenizer.encode("a text").tolist()])
logits = model(tokens, context=context).logits
```
""",
    "mixtral": """
The layout is that of Mixtral in Hugging Face transformers.

| file | what |
|---|---|
| model.safetensors | parameters in fp32 |
| config.json | the configuration |
| tokenizer.json, tokenizer_config.json | the vocabulary |

```python
from transformers import AutoTokenizer, MixtralForCausalLM

model = MixtralForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
logits = model(**tokenizer("a text", return_tensors="pt")).logits
```

SPECIAL
""",
}
NO_SPECIAL = (
    "There are no special tokens: no text begins or ends with one, so say how much to generate."
)
END_TOKEN = (
    "A text ends with the token that config.json names as eos_token_id; generation stops there."
)
LEFT_OUT = "\nCharacters that are not in the vocabulary are silently left out of a text.\n"
TOKENIZER_NOTES = {
    "bytes": LEFT_OUT,
    "chars": LEFT_OUT,
    "huggingface": "\nThe tokenizer is that of the model it was taken from, and may add special "
    "tokens to a text; training had none: pass `add_special_tokens=False`.\n",
    "words": "\nA line end is read as `<eos>`, and `<eos>` is not written as a line end.\n",
}


class Config(Facts):
    """The config.json of an export of format simsmoe; fields that only inform are ignored."""

    step: Count
    vocab_size: int = Field(ge=1, le=LARGEST_VOCABULARY)
    tokenizer: TokenizerFacts
    recipe: Recipe


def export(opened: OpenedRun, out: Path, kind: str | None = None) -> list[str]:
    """Write the folder.

    Args:
        opened: the checkpoint.
        out: a folder that does not exist yet, or is empty.
        kind: "simsmoe" or "mixtral"; None: "simsmoe", or that of a Hugging Face model.

    Returns:
        The names of its files.

    Raises:
        UserError: an unknown format, a model of another layout, or a folder that is not empty.
    """
    if opened.recipe.huggingface.used and kind is not None:
        raise UserError(
            "a run that trained a Hugging Face model is written as such a model",
            where="--format",
            hint="Leave it out.",
        )
    kind = kind or "simsmoe"
    if kind not in FORMATS:
        raise UserError(
            f"unknown format '{printable(kind)}'", where="--format", hint=nearest(kind, FORMATS)
        )
    if kind == "mixtral":
        require_mixtral(opened.recipe)
    try:
        atomic.require_new(out)
        with atomic.whole_folder(out) as partial:
            _fill(opened, partial, kind)
            files = sorted(path.name for path in partial.iterdir())
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot write the export: {reason}", where=str(out)) from None
    return files


def load_export(
    folder: Path, device: torch.device = CPU
) -> tuple[LanguageModel, Tokenizer, StepContext]:
    """An exported model of format simsmoe in evaluation mode, its tokenizer, and the context for
    every forward pass.

    Raises:
        UserError: the folder holds no export, or one that is damaged or of another version.
    """
    try:
        content = read_json(folder / CONFIG)
        named = content if isinstance(content, dict) else {}
        if (named.get("format"), named.get("schema")) != ("simsmoe", SCHEMA):
            raise Unreadable("is of another format or version")
    except FileNotFoundError:
        raise _unreadable(folder / CONFIG, "the file is missing") from None
    except Unreadable as error:
        raise _unreadable(folder / CONFIG, f"it {error}") from None
    try:
        config = validated(Config, content)
    except Unreadable as error:
        raise _unreadable(folder / CONFIG, str(error)) from None
    recipe, weights = portable(config.recipe, device), folder / WEIGHTS
    try:
        file = folder / config.tokenizer.file
        tokenizer = tokenizer_class(config.tokenizer.kind).load(read_bytes(file, LARGEST_TOKENIZER))
        require_model([weights], lambda: LanguageModel(recipe, config.vocab_size))
        model = LanguageModel(recipe, config.vocab_size).to(device)
        load_model(model, weights, strict=True, device=str(device))
    except FileNotFoundError:
        raise _unreadable(file, "the file is missing") from None
    except Unreadable as error:
        raise _unreadable(file, f"it {error}") from None
    except NotPermitted:
        raise
    except UserError as error:
        if error.code != EXIT_DATA:  # a library is missing
            raise
        raise _unreadable(Path(error.where or file), error.what) from None
    except (SafetensorError, OSError) as error:
        raise _unreadable(weights, str(error)) from None
    if tokenizer.vocab_size != config.vocab_size:
        raise _unreadable(folder / CONFIG, "vocab_size is not that of the tokenizer")
    context = StepContext(step=config.step, total_steps=recipe.train.steps)
    return model.eval(), tokenizer, context


def _fill(opened: OpenedRun, folder: Path, kind: str) -> None:
    model, state = opened.language_model(CPU), opened.state
    if isinstance(model, HuggingFaceLanguageModel):
        model.save(folder, opened.run.path)
        return
    tokenizer = opened.tokenizer
    if kind == "mixtral":
        assert isinstance(model, LanguageModel)
        save_file(mixtral_tensors(model), folder / WEIGHTS, metadata={"format": "pt"})
        end = tokenizer.end_id
        config = mixtral_config(opened.recipe, state["vocab_size"]) | {"eos_token_id": end}
        _write_json(folder / CONFIG, config)
        _write_json(folder / "tokenizer.json", fast_tokenizer(tokenizer))
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                **({} if end is None else {"eos_token": tokenizer.token_bytes(end).decode()}),
            },
        )
    else:
        save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
        (folder / tokenizer.file_name).write_bytes(tokenizer.dump())
        manifest = opened.store.manifest
        config = {
            "format": "simsmoe",
            "schema": SCHEMA,
            "simsmoe": __version__,
            "run": opened.run.name,
            "step": state["step"],
            "corpus": manifest.name,
            "corpus_warnings": manifest.warnings,
            "tokenizer": {"kind": tokenizer.kind, "file": tokenizer.file_name},
            "vocab_size": state["vocab_size"],
            "recipe": opened.recipe.model_dump(mode="json"),
        }
        _write_json(folder / CONFIG, config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (folder / README).write_text(_readme(opened, kind, parameters), encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _readme(opened: OpenedRun, kind: str, parameters: int) -> str:
    recipe, manifest = opened.recipe, opened.store.manifest
    moe = recipe.moe
    experts = (
        f"{moe.experts} experts a layer, {moe.top_k} a token, router {moe.router}, similarity "
        f"learning {recipe.similarity.preset}"
        if "g" in recipe.model.pattern
        else "no experts"
    )
    facts = [
        f"Recipe {recipe.name}: {experts}; {parameters:,} parameters.",
        f"Weights of step {opened.state['step']:,} of {recipe.train.steps:,} (checkpoint "
        f"{opened.which}), trained on blocks of {recipe.train.block} tokens.",
        f"Corpus {manifest.name}; tokenizer {manifest.tokenizer}, {manifest.vocab_size:,} "
        f"{manifest.unit}s.",
        *manifest.warnings,
    ]
    facts = [printable(fact, 1000) for fact in facts]
    body = BODIES[kind].replace("TOKENIZER", manifest.tokenizer_file.file)
    body = body.replace("SPECIAL", NO_SPECIAL if manifest.end_id is None else END_TOKEN)
    if kind == "mixtral":
        body += TOKENIZER_NOTES.get(manifest.tokenizer, "")
    facts = [printable(fact, 400) for fact in facts]
    title = f"# {printable(opened.run.name)}\n\n"
    title += f"A language model exported with simsmoe {__version__}.\n\n"
    return title + "".join(f"- {fact}\n" for fact in facts) + body


def _unreadable(path: Path, why: str) -> UserError:
    return DataError(
        f"the export cannot be read: {why}",
        where=str(path),
        hint="Export the run again, with --format simsmoe.",
    )
