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

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from simsmoe_cli.any_moe.handle import Handle, attach
from simsmoe_cli.any_moe.settings import Similarity
from simsmoe_cli.errors import DataError, UserError

STATE = "simsmoe.safetensors"
EXPERTS = "experts."
SOME = 256  # weights of each matrix
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
        """Attach to the model, which the Trainer has wrapped by now.

        Raises:
            UserError: as `attach`; the Trainer spreads the model over several GPUs in one process;
                or the checkpoint that it resumes from is not where it is looked for.
        """
        if args.n_gpu > 1:
            raise UserError(
                f"the Trainer copies the model to {args.n_gpu} GPUs of one process, and the copies "
                "would share their hooks",
                where="SimSMoECallback",
                hint="Start it with torchrun, or set CUDA_VISIBLE_DEVICES to one GPU.",
            )
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
        self.handle.model_folder = args.output_dir
        if state.global_step:
            folder = _checkpoint(args, state)
            if not folder.is_dir():
                self.handle.detach()
                raise DataError(
                    "the checkpoint that the Trainer resumes from is not here",
                    where=str(folder),
                    hint="Say where it is: TrainingArguments(resume_from_checkpoint=FOLDER).",
                )
            saved = _read(folder)
            experts = {name: saved.pop(name) for name in list(saved) if name.startswith(EXPERTS)}
            try:
                _require_same_experts(experts, _some_weights(self.handle), folder)
                self.handle.load_state_dict(saved, state.global_step)
            except UserError:
                self.handle.detach()
                raise

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
        self.handle.log(logs["loss"], logs.get("learning_rate"), logs.get("grad_norm"))
        logs.update({PREFIX + name: value for name, value in self.handle.metrics().items()})

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the pair trackers in the Trainer's checkpoint folder, and some of the experts'
        weights, by which a resumed training sees whether the experts were read."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.handle is not None and state.is_world_process_zero and folder.is_dir():
            save_file({**self.handle.state_dict(), **_some_weights(self.handle)}, folder / STATE)

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
        raise DataError(
            "this file is damaged",
            where=str(path),
            hint="Delete it: the pair trackers then start from 0.",
        ) from None
    return found


def _some_weights(handle: Handle) -> dict[str, Tensor]:
    """Some weights of the experts of each layer; none where they are spread over processes."""
    found = {}
    for index, attached in enumerate(handle.layers):
        parts = [part.detach() for part in attached.layer.experts.parameters()]
        if not any(isinstance(part, DTensor) for part in parts):
            some = [part.flatten()[:: max(1, part.numel() // SOME)] for part in parts]
            found[f"{EXPERTS}{index}"] = torch.cat(some).cpu()
    return found


def _require_same_experts(saved: dict[str, Tensor], now: dict[str, Tensor], folder: Path) -> None:
    """Refuse to go on with experts that are not those of the checkpoint.

    `save_pretrained` writes the experts of Mixtral, Qwen3-MoE and others one by one, and the
    Trainer of transformers 5 reads a checkpoint without stacking them again, so it leaves them as
    they are (huggingface/transformers issue 48805).

    Raises:
        UserError: the experts differ.
    """
    for name in saved.keys() & now.keys():
        if not torch.equal(saved[name].to(now[name].dtype), now[name]):
            raise DataError(
                "the Trainer did not read the experts of this checkpoint, and would train on with "
                "others",
                where=str(folder),
                hint="Create the model with from_pretrained of this folder, then resume again.",
            )
