"""simsmoe measures how similar the experts of a mixture of experts are, and trains them to differ.

The Python API (docs/api.md) has a few names, which import torch only when they are used:

    attach            watch the experts of any model in your training loop, and keep them different
    Handle            the object that `attach` returns
    SimSMoECallback   the same for the Trainer of transformers, and so for those of TRL
    ExpertLayer, ListedLayer   describe layers that `attach` does not find by itself
    UserError         raised for every error that a user can fix
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simsmoe_cli.any_moe.find_layers import ExpertLayer, ListedLayer
    from simsmoe_cli.any_moe.handle import Handle, attach
    from simsmoe_cli.any_moe.trainer_callback import SimSMoECallback
    from simsmoe_cli.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "ExpertLayer",
    "Handle",
    "ListedLayer",
    "SimSMoECallback",
    "UserError",
    "__version__",
    "attach",
]

_HOMES = {
    "ExpertLayer": "any_moe.find_layers",
    "Handle": "any_moe.handle",
    "ListedLayer": "any_moe.find_layers",
    "SimSMoECallback": "any_moe.trainer_callback",
    "UserError": "errors",
    "attach": "any_moe.handle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
