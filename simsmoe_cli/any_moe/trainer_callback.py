"""A callback for the Trainer of transformers, and so for those of TRL.

    callback = SimSMoECallback(similarity="calibrated", run="runs/my-olmoe")
    trainer = Trainer(model, arguments, ..., callbacks=[callback])
    callback.log_with(trainer)      # metrics reach W&B, TensorBoard ... as well
    trainer.train()

It attaches when the training begins, counts optimizer steps, scales the similarity loss as the
Trainer scales its own (accumulated batches, fp16), and keeps its state in the Trainer's
checkpoints, so that a resumed training goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from simsmoe_cli.any_moe.handle import Handle, attach
from simsmoe_cli.any_moe.settings import Similarity
from simsmoe_cli.errors import EXIT_DATA, UserError

STATE = "simsmoe.safetensors"
PREFIX = "simsmoe/"


class SimSMoECallback(TrainerCallback):
    """Attaches simsmoe to the model that a Trainer trains.

    Attributes:
        handle: of the attached model; None before the training begins.
    """

    def __init__(
        self,
        similarity: Similarity = "calibrated",
        run: str | Path | None = None,
        probe_every: int = 200,
        seed: int = 0,
    ):
        """Arguments are those of `attach`."""
        self.handle: Handle | None = None
        self._similarity = similarity
        self._run = run
        self._probe_every = probe_every
        self._seed = seed

    def log_with(self, trainer: Any) -> None:
        """Put this callback before those that send logs to other programs, so that they see its
        metrics.

        The Trainer calls callbacks in order and puts those of `report_to` first.
        """
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach to the model, which the Trainer has wrapped by now."""
        self.handle = attach(
            given["model"],
            self._similarity,
            run=self._run,
            resume=state.global_step > 0,
            total_steps=state.max_steps,
            probe_every=self._probe_every,
            log_every=None,
            seed=self._seed,
        )
        if state.global_step:
            self.handle.load_state_dict(_read(_checkpoint(args, state)), state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Scale the similarity loss as the Trainer scales its own."""
        assert self.handle is not None
        scaler = getattr(given.get("optimizer"), "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        self.handle.loss_scale = scale / args.gradient_accumulation_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Count an optimizer step."""
        assert self.handle is not None
        self.handle.step()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Add the metrics to the Trainer's logs."""
        if self.handle is None or logs is None or "loss" not in logs:
            return
        self.handle.log(logs["loss"], logs.get("learning_rate"))
        logs.update({PREFIX + name: value for name, value in self.handle.metrics().items()})

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the pair trackers in the Trainer's checkpoint folder."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.handle is not None and state.is_world_process_zero and folder.is_dir():
            save_file(self.handle.state_dict(), folder / STATE)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Detach from the model."""
        if self.handle is not None:
            self.handle.detach()


def _checkpoint(args: Any, state: Any) -> Path:
    """The checkpoint that a Trainer resumes from."""
    asked = args.resume_from_checkpoint
    if isinstance(asked, str) and Path(asked).is_dir():
        return Path(asked)
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / STATE
    if not path.is_file():
        return {}  # made without this callback: the pair trackers begin anew
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError):
        raise UserError(
            "this file is damaged",
            where=str(path),
            hint="Delete it: the pair trackers then start from 0.",
            code=EXIT_DATA,
        ) from None
    return found
