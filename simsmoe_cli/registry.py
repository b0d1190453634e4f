"""Names a recipe or a command line may use, each with the class that does it.

Tables are lazy: a row is "module:Attribute" and a line of help, so that listing names imports
nothing heavy. :func:`load` imports one row when it is needed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """One row: where the thing lives, one line about it, and its paper or source."""

    target: str
    help: str
    source: str = ""


ROUTERS: dict[str, Entry] = {
    "smoe": Entry(
        "simsmoe_cli.moe.routers.smoe:SMoERouter",
        "linear logits, softmax over the selected top-K",
        "Shazeer et al. 1701.06538",
    ),
}

EXPERTS: dict[str, Entry] = {
    "grouped": Entry(
        "simsmoe_cli.moe.experts.grouped:GroupedExperts",
        "one grouped matrix product for all experts (the default)",
        "torch.nn.functional.grouped_mm",
    ),
    "loop": Entry(
        "simsmoe_cli.moe.experts.loop:LoopExperts",
        "one expert after the other: slow and obvious, the oracle",
    ),
}

MEASURES: dict[str, Entry] = {
    "cka-linear": Entry(
        "simsmoe_cli.similarity.cka:linear_cka",
        "linear CKA, biased estimator",
        "Kornblith et al. 1905.00414",
    ),
    "cka-linear-debiased": Entry(
        "simsmoe_cli.similarity.cka:debiased_linear_cka",
        "linear CKA, debiased estimator: near 0 for unrelated experts at any n",
        "Song et al. 2012; Nguyen et al. 2010.15327",
    ),
    "cka-rbf": Entry(
        "simsmoe_cli.similarity.cka:rbf_cka",
        "CKA with Gaussian kernels, biased estimator (the paper's measure)",
        "Do et al. 2406.15883",
    ),
}

CORPORA: dict[str, Entry] = {
    "pystdlib": Entry(
        "simsmoe_cli.data.corpora:PYSTDLIB",
        "source code of Python's standard library; on every machine, needs no network",
    ),
    "enwik8": Entry(
        "simsmoe_cli.data.corpora:ENWIK8",
        "first 100 MB of English Wikipedia as XML, by bytes",
        "Mahoney, Large Text Compression Benchmark",
    ),
    "text8": Entry(
        "simsmoe_cli.data.corpora:TEXT8",
        "100 MB of English Wikipedia as letters and spaces",
        "Mahoney, Large Text Compression Benchmark",
    ),
    "wikitext-2": Entry(
        "simsmoe_cli.data.corpora:WIKITEXT2",
        "2 million words of Wikipedia articles",
        "Merity et al. 1609.07843",
    ),
    "wikitext-103": Entry(
        "simsmoe_cli.data.corpora:WIKITEXT103",
        "103 million words of Wikipedia articles",
        "Merity et al. 1609.07843",
    ),
}

TABLES: dict[str, dict[str, Entry]] = {
    "routers": ROUTERS,
    "experts": EXPERTS,
    "similarity": MEASURES,
    "corpora": CORPORA,
}


def load(table: str, name: str) -> Any:
    """The object behind `name` in the table; a UserError names the nearest valid name."""
    entries = TABLES[table]
    if name not in entries:
        raise UserError(f"unknown {table.rstrip('s')} '{name}'", hint=nearest(name, entries))
    module, _, attribute = entries[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)
