"""Recipe settings under which every router of the registry works, and variants of some.

A router that needs nothing but its name needs no line here.
"""

from __future__ import annotations

from simsmoe_cli import registry

NEEDED: dict[str, list[str]] = {
    "switch": ["moe.top_k=1"],
    "expert-choice": ["expert_choice.allow_leak=true"],
}
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "gshard, second kept": ("gshard", ["gshard.random_second=false"]),
    "xmoe, published": ("xmoe", ["xmoe.published=true"]),
    "stablemoe, published": ("stablemoe", ["stablemoe.published=true"]),
    "competesmoe, competing": ("competesmoe", ["competesmoe.rate=1", "competesmoe.warmup=0"]),
    "competesmoe, version 1": (
        "competesmoe",
        ["competesmoe.version=1", "competesmoe.rate=1", "competesmoe.warmup=0"],
    ),
}


def overrides(router: str) -> list[str]:
    """What `--set` must be given for a router of the registry."""
    return [f"moe.router={router}", *NEEDED.get(router, [])]


CASES: dict[str, list[str]] = {name: overrides(name) for name in registry.ROUTERS} | {
    case: overrides(name) + more for case, (name, more) in VARIANTS.items()
}
