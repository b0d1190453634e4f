"""Opening run folders: the right weights, the right text, and clear errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from simsmoe_cli.collapse.sources.open_run import checkpoints, open_run
from simsmoe_cli.collapse.sources.run import CorpusSource
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.run import checkpoint, checkpoint_state
from tests.collapse.runs import opened, write_run
from tests.train.tiny import recipe


def first_weight(step: int, store: TokenStore) -> torch.Tensor:
    torch.manual_seed(step)
    return LanguageModel(recipe(), store.manifest.vocab_size).moe_layers[0].experts.w_in.detach()


def test_the_checkpoint_asked_for_is_opened(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store, steps=(2, 4, 6), best=3)
    for which, step in (("best", 3), ("last", 6), ("4", 4)):
        source = opened(run, store, which)
        assert source.subject.step == step
        assert source.subject.checkpoint == which
        weight = source.model.moe_layers[0].experts.w_in
        assert torch.equal(weight, first_weight(step, store))


def test_all_checkpoints_are_named_oldest_first(store: TokenStore, tmp_path: Path) -> None:
    assert checkpoints(write_run(tmp_path / "a", store, (2, 6), 4), "all") == ["2", "best", "6"]
    assert checkpoints(write_run(tmp_path / "b", store, (2, 6), 6), "all") == ["2", "6"]
    assert checkpoints(write_run(tmp_path / "c", store, (), 6), "all") == ["best"]
    assert checkpoints(write_run(tmp_path / "d", store, (2, 6), 4), "last") == ["last"]
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints(write_run(tmp_path / "e", store, (), None), "all")


def test_the_split_asked_for_is_read(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store)
    for split in ("valid", "test"):
        source = opened(run, store, split=split)
        assert source.split == split
        ids = torch.cat([part.ids_T for part in source.read(10**6, 64)])
        assert len(ids) == len(store.split(split)) - 1


def test_a_corpus_that_moved_is_found_where_training_had_it(
    store: TokenStore, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", store)
    source = open_run(run, data_dir=tmp_path / "elsewhere", device=torch.device("cpu"))
    assert isinstance(source, CorpusSource)
    assert source.store.path == store.path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"which": "7"}, "no checkpoint '7'.*4, last, best"),
        ({"split": "vaild"}, "no split 'vaild'.*Did you mean 'valid'"),
    ],
)
def test_what_is_not_there_is_said(
    store: TokenStore, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    run = write_run(tmp_path / "run", store)
    with pytest.raises(UserError, match=said):
        opened(run, store, **options)


def test_another_corpus_under_the_same_name_is_refused(
    store: TokenStore, corpus_dir: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", store)
    shutil.copytree(corpus_dir / "words", tmp_path / "data" / "sources")
    other = TokenStore.open(tmp_path / "data" / "sources")
    with pytest.raises(UserError, match="not the one this run was trained on") as caught:
        opened(run, other)
    assert caught.value.code == EXIT_DATA


def test_a_model_without_experts_is_refused(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store, recipe=recipe(model={"pattern": "sf"}))
    with pytest.raises(UserError, match="no experts"):
        opened(run, store)


def test_damage_is_said(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store)
    weights = checkpoint.find(run, "last") / checkpoint_state.MODEL
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="checksum"):
        opened(run, store, "last")
