"""Documents that tests prepare, and what a store of them must hold."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tokenizers.base import END

SPLITS = ("train", "valid", "test")


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of one or several lines, with characters of several bytes, and no two alike."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdeé中🙂", k=draw.randint(1, 7))) for _ in range(200)]

    def line() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 12)))

    return [
        f"{number} " + "\n".join(line() for _ in range(draw.randint(1, 4)))
        for number in range(count)
    ]


def write_lines(path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)]
    content = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def documents_in(store: TokenStore) -> dict[str, list[str]]:
    """The documents of each split, as the ids between end tokens say."""
    found = {}
    for split in SPLITS:
        *texts, rest = store.tokenizer.decode(store.split(split)[:]).split(END)
        assert rest == ""
        found[split] = texts
    return found
