"""The options of `simsmoe prepare-data` that only documents have."""

from typing import Annotated

import typer

PANEL = "Options of documents"

DocumentsOption = Annotated[
    bool,
    typer.Option(
        "--documents",
        help="Plain text: each file is a document, with an end token after it.",
        rich_help_panel=PANEL,
    ),
]
ValidationOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="The validation split: one file, folder or quoted glob.",
        rich_help_panel=PANEL,
    ),
]
TestOption = Annotated[
    list[str] | None, typer.Option(metavar="PATH", help="The test split.", rich_help_panel=PANEL)
]
HeldOutOption = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=0.3,
        metavar="SHARE",
        help="Share in each split that is not given. At 0.05, the default, one of every "
        "20 consecutive documents of a file goes to validation and one to test, at places drawn "
        "by a hash of the file's name, the same every time.",
        rich_help_panel=PANEL,
    ),
]
EndTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="The token of a Hugging Face tokenizer that ends each. Default: the "
        "eos_token of its tokenizer_config.json.",
        rich_help_panel=PANEL,
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Processes that encode. Default: one per core, one for less than 32 MB. "
        "The result is the same.",
        rich_help_panel=PANEL,
    ),
]
