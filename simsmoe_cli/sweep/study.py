"""The study of a search: a SQLite file of optuna's in the sweep's folder, and what it searches.

Nothing here imports torch, so that a search is watched while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.folder import STUDY
from simsmoe_cli.sweep.ranges import Range

if TYPE_CHECKING:
    import optuna

NAME = "simsmoe"  # of the study
# Attributes of a study and a trial.
SEARCHED = "searched"  # recipe, settings, seed and ranges
WANTED = "wanted"  # number of trials
FAILED = "failed"  # how many failed in a search that ended; None while one goes on
REASON = "reason"  # why a trial failed
UNPRUNED = 5  # trials that are trained to their end before any is given up
# States of a trial, as optuna names them in lower case.
COMPLETE, PRUNED, FAIL, RUNNING = "complete", "pruned", "fail", "running"


@dataclass(frozen=True)
class Trial:
    """A trial of a study.

    Attributes:
        number: from 0.
        state: COMPLETE, PRUNED, FAIL or RUNNING.
        valid_bpc: its best validation, bits per token; None if there was none.
        settings: its values by field.
        step: of its last validation; 0 if there was none.
        reason: why it failed, if that is known.
    """

    number: int
    state: str
    valid_bpc: float | None
    settings: dict[str, Any]
    step: int = 0
    reason: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is one of those that a search was asked for."""
        return self.state in (COMPLETE, PRUNED)


def open_study(folder: Path) -> optuna.Study:
    """The study in a sweep's folder, made if need be.

    Raises:
        UserError: optuna is not installed.
    """
    library = _optuna()
    folder.mkdir(parents=True, exist_ok=True)
    made: optuna.Study = library.create_study(
        study_name=NAME,
        storage=_storage(folder),
        pruner=library.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        load_if_exists=True,
    )
    return made


def existing_study(folder: Path) -> optuna.Study | None:
    """The study in a sweep's folder; None if there is none.

    Raises:
        UserError: optuna is not installed.
    """
    library = _optuna()
    if not (folder / STUDY).is_file():
        return None
    found: optuna.Study = library.load_study(study_name=NAME, storage=_storage(folder))
    return found


def trials(study: optuna.Study) -> list[Trial]:
    """All trials that have begun: the best first, then those that were given up, that failed, and
    that train."""
    order = [COMPLETE, PRUNED, FAIL, RUNNING]
    found = [
        Trial(
            one.number,
            one.state.name.lower(),
            min(one.intermediate_values.values(), default=None),
            dict(one.params),
            max(one.intermediate_values, default=0),
            str(one.user_attrs.get(REASON, "")),
        )
        for one in study.get_trials(deepcopy=False)
        if one.state.name.lower() in order
    ]

    def rank(one: Trial) -> tuple[int, float]:
        return order.index(one.state), math.inf if one.valid_bpc is None else one.valid_bpc

    return sorted(found, key=rank)


def require_same(
    study: optuna.Study, definition: Definition, ranges: Mapping[str, Range], folder: Path
) -> None:
    """Raise a UserError if a study searched other things."""
    wanted, known = _searched(definition, ranges), study.user_attrs.get(SEARCHED)
    if known is None or known == wanted:
        return
    other = " and ".join(name for name in wanted if wanted[name] != known.get(name))
    raise UserError(
        f"the search in this folder is not this one: it differs in {other}",
        where=printable(folder, 200),
        hint="Choose another --name.",
    )


def begin(
    study: optuna.Study, definition: Definition, ranges: Mapping[str, Range], count: int
) -> None:
    """Note in a study what is searched, and that a search goes on."""
    study.set_user_attr(SEARCHED, _searched(definition, ranges))
    study.set_user_attr(WANTED, count)
    study.set_user_attr(FAILED, None)


def _searched(definition: Definition, ranges: Mapping[str, Range]) -> dict[str, Any]:
    return {
        "recipe": definition.recipe,
        "settings": definition.settings,
        "seed": definition.seeds[0],
        "ranges": {field: [one.low, one.high] for field, one in ranges.items()},
    }


def _storage(folder: Path) -> str:
    return f"sqlite:///{(folder / STUDY).resolve()}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(
            "a search needs optuna", hint="Install it: python -m pip install 'simsmoe[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
