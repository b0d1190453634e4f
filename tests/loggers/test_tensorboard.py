"""TensorBoard, read by its own reader."""

from __future__ import annotations

import pytest

from simsmoe_cli.run import probes
from tests.loggers.conftest import Logged
from tests.train.tiny import events

pytest.importorskip("tensorboard")


def test_the_reader_finds_what_the_run_s_events_hold(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = logged("tensorboard")
    assert "tensorboard: tensorboard --logdir runs/mine/tensorboard\n" in capsys.readouterr().out
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    tags = read.Tags()
    # Steps after 4 of the first session are those of the second: there is one value of each.
    for tag, kind, field in (
        ("train/loss_nats", "train", "loss_nats"),
        ("train/lr", "train", "lr"),
        ("valid/bpc", "eval", "bpc"),
    ):
        values = {scalar.step: scalar.value for scalar in read.Scalars(tag)}
        assert len(values) == len(read.Scalars(tag))
        found = {
            event["step"]: event[field]
            for event in events(run, kind)
            if event.get("split") in (None, "valid")
        }
        assert values == pytest.approx(found, rel=1e-6)
    similarity = events(run, "similarity")
    means = {event["step"]: event["layers"][1]["mean"] for event in similarity}
    assert {s.step: s.value for s in read.Scalars("cka_mean/layer_3")} == pytest.approx(means)
    pictures = read.Images("cka/matrices")
    assert [picture.step for picture in pictures] == [event["step"] for event in similarity]
    assert probes.read(run.path, similarity[-1]["matrices"]).cka_LNN.shape == (2, 4, 4)
    assert (pictures[0].height, pictures[0].width) == (160, 328)
    assert len(tags["scalars"]) < 50
