"""The run folder of an attached training: what the monitor and the other readers find there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simsmoe_cli.any_moe.handle import Handle, attach
from simsmoe_cli.cli.main import run as simsmoe
from simsmoe_cli.compare.statistics import compare
from simsmoe_cli.errors import UserError
from simsmoe_cli.run import probes
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.folder import RunDir
from tests.any_moe.by_hand import Seen, batch, cka, loss_of, made

STEPS = 8


def train(handle: Handle, model: torch.nn.Module, steps: range) -> None:
    for number in steps:
        model.zero_grad()
        loss = loss_of(model, batch(number))
        loss.backward()
        handle.step(loss=loss, lr=0.01)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = made("qwen3_moe")
    path = tmp_path / "attached"
    handle = attach(model, run=path, probe_every=4, log_every=2, total_steps=STEPS)
    train(handle, model, range(STEPS))
    handle.detach()
    return path


def test_events_and_matrices(run: Path) -> None:
    events = list(read_events(run / "events.jsonl"))
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    trained = [event for event in events if event["kind"] == "train"]
    assert [event["step"] for event in trained] == [2, 4, 6, 8]
    assert trained[0]["lr"] == 0.01
    probed = [event for event in events if event["kind"] == "similarity"]
    assert [event["step"] for event in probed] == [1, 5]
    matrices = probes.read(run, probed[1]["matrices"])
    plain = made("qwen3_moe")  # no optimizer moved the weights
    seen = Seen(plain)
    loss_of(plain, batch(4))
    outputs = [seen.expert(0, number) for number in range(16)]
    assert matrices.cka_LNN[0, 3, 7] == pytest.approx(cka(outputs[3], outputs[7]).item(), abs=1e-4)
    shared = seen.shared()[0] / len(outputs[0])
    np.testing.assert_allclose(matrices.shared_LNN[0, 3, 7], shared[3, 7], atol=1e-6)
    routed = [event for event in events if event["kind"] == "router"]
    assert sum(routed[0]["layers"][0]["load"]) == pytest.approx(1)


@pytest.mark.parametrize("form", ["--once", "--json"])
def test_the_monitor_shows_it(run: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert simsmoe(["monitor", str(run), form]) == 0
    shown = capsys.readouterr().out
    assert "attached" in shown


def test_a_run_is_gone_on_with_from_its_step(run: Path) -> None:
    model = made("qwen3_moe")
    handle = attach(model, run=run, resume=True, probe_every=4, log_every=2, total_steps=STEPS)
    handle.load_state_dict({}, 4)
    train(handle, model, range(4, STEPS))
    handle.detach()
    events = list(read_events(run / "events.jsonl"))
    assert [event["step"] for event in events if event["kind"] == "train"] == [2, 4, 6, 8]
    assert [event["step"] for event in events if event["kind"] == "run_started"] == [0]
    assert sum(event["kind"] == "run_finished" for event in events) == 1


def test_a_folder_that_holds_a_run_is_not_overwritten(run: Path) -> None:
    before = (run / "events.jsonl").read_bytes()
    model = made("mixtral")
    with pytest.raises(UserError, match="holds a run already"):
        attach(model, run=run)
    assert (run / "events.jsonl").read_bytes() == before
    attach(model).detach()  # the model was left as it was


def test_a_folder_in_use(tmp_path: Path) -> None:
    first, second = made("mixtral"), made("mixtral")
    handle = attach(first, run=tmp_path / "run")
    with pytest.raises(UserError, match="another process"):
        attach(second, run=tmp_path / "run")
    handle.detach()


def test_runs_are_compared_by_their_settings_and_losses(run: Path, tmp_path: Path) -> None:
    model = made("qwen3_moe")
    plain = tmp_path / "plain"
    handle = attach(model, "none", run=plain, probe_every=4, log_every=2)
    train(handle, model, range(3))
    assert simsmoe(["monitor", str(plain), "--once"]) == 0
    first, second = compare([RunDir(run), RunDir(plain)]).runs  # one of them is in training
    assert first.settings["model"] == "Qwen3MoeForCausalLM"
    assert first.settings["similarity.weight"] != second.settings["similarity.weight"]
    assert first.curves["train_loss"].steps == [2, 4, 6, 8]
    last = [event for event in read_events(run / "events.jsonl") if event["kind"] == "train"][-1]
    assert first.measures["train_loss"] == last["loss_nats"]
    assert (first.measures["cka"], second.measures["cka"]) != (None, None)
    assert (first.status, second.status) == ("finished", "in training")
    assert first.measures["tokens_per_s"] is not None
    handle.detach()


def test_commands_that_need_weights_say_where_they_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["eval", str(run)],
        ["collapse-report", str(run)],
        ["generate", str(run), "--prompt", "a"],
        ["export", str(run), str(tmp_path / "out")],
        ["finetune", "--from", str(run), "--task", "sst2"],
    ):
        assert simsmoe(words) == 3
        said = capsys.readouterr().err
        assert "has no weights; the model is where your loop saves it" in said
        assert "simsmoe collapse-report FOLDER --text FILE" in said
