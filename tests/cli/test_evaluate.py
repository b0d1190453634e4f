"""`simsmoe eval`: every token once, of the weights asked for, or a clear refusal."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, EXIT_USAGE
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import evaluation as evaluate_run
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.tiny import events, recipe, without_times

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs_dir(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "bytes" and "words", trained to step 8; not to be changed."""
    folder = tmp_path_factory.mktemp("eval") / "runs"
    for name, data in (
        ("bytes", {}),
        ("words", {"corpus": "words", "tokenizer": "words"}),
    ):
        made = recipe(data=data, eval={"final_blocks": 0})
        run = RunDir(folder / name)
        store = session.open_store(made, corpus_dir)
        session.train(Plan(made, run, None), store, torch.device("cpu"))
    return folder


@pytest.fixture(autouse=True)
def working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path, runs_dir: Path
) -> None:
    """A folder with data/ and runs/, as a user has."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(corpus_dir)
    Path("runs").symlink_to(runs_dir)


def evaluate(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """What `simsmoe eval --json` reports."""
    assert main.run(["eval", *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report: dict[str, Any] = json.loads(printed.out)
    return report


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    assert main.run(["eval", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def own_runs() -> Path:
    """A copy of the runs in runs/, to be changed."""
    trained = Path("runs").resolve()
    Path("runs").unlink()
    shutil.copytree(trained, "runs")
    return Path("runs")


def test_the_test_split_as_in_the_summary_of_the_training(capsys: Capture) -> None:
    report = evaluate(capsys, "bytes")
    run = RunDir(Path("runs/bytes"))
    finished = events(run)[-1]
    assert report["loss_nats"] == pytest.approx(finished["test_loss_nats"], rel=1e-6)
    assert report["bpc"] == pytest.approx(finished["test_bpc"], rel=1e-6)
    assert report["step"] == finished["best_step"]
    assert report["tokens"] == TokenStore.open(Path("data/sources")).manifest.splits["test"].tokens
    assert set(report) == {
        "run", "checkpoint", "step", "finished", "corpus", "unit", "top_k", "split", "loss_nats",
        "bpc", "bits_per_byte", "perplexity", "word_perplexity", "tokens", "split_tokens",
        "tokens_per_s",
    }  # fmt: skip
    assert (report["run"], report["corpus"], report["unit"]) == ("bytes", "sources", "byte")
    assert report["tokens_per_s"] > 0


def test_one_line_for_people(capsys: Capture) -> None:
    assert main.run(["eval", "runs/bytes", "--split", "valid"]) == 0
    assert re.fullmatch(
        r"bytes  step 8  sources valid: \d\.\d{4} BPC, perplexity \d\.\d\de\+\d\d per word  "
        r"\(11,013 bytes, [\d,]+ tokens/s\)\n",
        capsys.readouterr().out,
    )
    assert main.run(["eval", "words"]) == 0
    assert re.fullmatch(
        r"words  step 8  words test: perplexity [\d,]+\.\d\d, \d\.\d{4} bits per byte  "
        r"\([\d,]+ words, [\d,]+ tokens/s\)\n",
        capsys.readouterr().out,
    )


def test_words_have_a_perplexity_and_no_bpc(capsys: Capture) -> None:
    report = evaluate(capsys, "words")
    assert report["bpc"] is None
    assert report["perplexity"] > 1


@pytest.mark.parametrize(("which", "step"), [("last", 8), ("8", 8), ("4", 4), ("0000004", 4)])
def test_the_checkpoint_asked_for(capsys: Capture, which: str, step: int) -> None:
    report = evaluate(capsys, "bytes", "--checkpoint", which, "--split", "valid")
    assert (report["checkpoint"], report["step"]) == (which, step)
    other = evaluate(capsys, "bytes", "--checkpoint", "4" if step == 8 else "8", "--split", "valid")
    assert (report["loss_nats"] < other["loss_nats"]) == (step == 8)


def test_the_split_asked_for(capsys: Capture) -> None:
    splits = TokenStore.open(Path("data/sources")).manifest.splits
    for split in ("valid", "test"):
        assert evaluate(capsys, "bytes", "--split", split)["tokens"] == splits[split].tokens


def test_a_checkpoint_there_is_none_of(capsys: Capture) -> None:
    for which in ("6", "nonsense"):
        assert refusal(capsys, EXIT_DATA, "bytes", "--checkpoint", which) == (
            f"simsmoe: error: runs/bytes: no checkpoint '{which}' in this run. "
            "Available: 4, 8, last, best.\n"
        )


def test_a_split_there_is_none_of(capsys: Capture) -> None:
    assert "--split: no split 'validation'. Did you mean 'valid'?" in refusal(
        capsys, EXIT_USAGE, "bytes", "--split", "validation"
    )


@pytest.mark.parametrize("run", ["byte", "runs/byte", "elsewhere/byte"])
def test_a_run_there_is_none_of_names_the_nearest(capsys: Capture, run: str) -> None:
    assert refusal(capsys, EXIT_DATA, run) == (
        f"simsmoe: error: runs: no run '{run}'. Did you mean 'bytes'? Available: bytes, words.\n"
    )


def test_no_runs_at_all(capsys: Capture) -> None:
    assert refusal(capsys, EXIT_DATA, "bytes", "--runs-dir", "nowhere") == (
        "simsmoe: error: nowhere: no run 'bytes'. Available: none.\n"
    )


def test_a_folder_that_is_no_run(capsys: Capture) -> None:
    Path("folder").mkdir()
    said = refusal(capsys, EXIT_DATA, "folder")
    assert "folder: no run in this folder: it has no recipe.yaml. Give a run folder." in said


@pytest.mark.parametrize("place", [".", "runs", "runs/bytes"])
def test_a_run_by_path_from_anywhere(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(place)
    path = {".": "runs/bytes", "runs": "bytes", "runs/bytes": "."}[place]
    assert evaluate(capsys, path)["run"] == "bytes"


def test_a_name_is_not_mistaken_for_a_folder_here(capsys: Capture) -> None:
    Path("bytes").mkdir()
    assert evaluate(capsys, "bytes")["step"] == 8


# Another k


def test_another_number_of_experts_per_token(capsys: Capture) -> None:
    own = evaluate(capsys, "bytes", "--split", "valid")
    assert own["top_k"] is None
    losses = {}
    for k in (1, 2, 4):
        report = evaluate(capsys, "bytes", "--split", "valid", "--top-k", str(k))
        assert report["top_k"] == k
        losses[k] = report["loss_nats"]
    assert losses[2] == own["loss_nats"]
    assert len(set(losses.values())) == 3
    assert main.run(["eval", "bytes", "--top-k", "4"]) == 0
    assert "sources test at top-k 4: " in capsys.readouterr().out


@pytest.mark.parametrize("k", ["0", "5", "-1"])
def test_more_experts_per_token_than_there_are(capsys: Capture, k: str) -> None:
    assert refusal(capsys, EXIT_USAGE, "bytes", "--top-k", k) == (
        f"simsmoe: error: --top-k: a token cannot go to {k} of 4 experts. Use 1 to 4.\n"
    )


def test_experts_per_token_of_a_model_without_experts(capsys: Capture, corpus_dir: Path) -> None:
    made = recipe(model={"pattern": "sf"}, eval={"final_blocks": 1}, train={"steps": 1})
    run = RunDir(Path("dense"))
    session.train(Plan(made, run, None), session.open_store(made, corpus_dir), torch.device("cpu"))
    assert "--top-k: this model has no experts" in refusal(
        capsys, EXIT_USAGE, "dense", "--top-k", "1"
    )


# Other corpora


def test_another_corpus_with_the_run_s_vocabulary(capsys: Capture, corpus_dir: Path) -> None:
    """What a refusal advises works."""
    Path("other.txt").write_text((corpus_dir / "sources.txt").read_text().lower())
    prepare("other.txt", Path("other"))
    printed = refusal(capsys, EXIT_DATA, "bytes", "--data", "other")
    assert "other: the corpus was prepared with another tokenizer or vocabulary" in printed
    advice = re.search(r"Prepare it with the run's: simsmoe (prepare-data PATH .*)\n", printed)
    assert advice
    command = shlex.split(advice[1].replace("PATH", "other.txt"))
    assert main.run([*command, "--out", "lent"]) == 0
    capsys.readouterr()
    report = evaluate(capsys, "bytes", "--data", "lent")
    assert report["corpus"] == "lent"
    assert report["tokens"] == TokenStore.open(Path("lent")).manifest.splits["test"].tokens


def test_a_corpus_of_words_is_refused_by_a_model_of_bytes(capsys: Capture) -> None:
    assert "another tokenizer or vocabulary" in refusal(
        capsys, EXIT_DATA, "bytes", "--data", "words"
    )
    assert "corpus 'nowhere' is not prepared" in refusal(
        capsys, EXIT_DATA, "bytes", "--data", "nowhere"
    )


def test_a_corpus_is_found_where_it_was_in_training(capsys: Capture) -> None:
    Path("data").unlink()
    assert evaluate(capsys, "bytes")["corpus"] == "sources"


def test_a_corpus_that_changed_is_not_taken_for_the_run_s(
    capsys: Capture, corpus_dir: Path
) -> None:
    """Same name, same vocabulary, other text."""
    text = (corpus_dir / "sources.txt").read_text()
    Path("sources.txt").write_text(text[::-1])
    Path("data").unlink()
    prepare("sources.txt", Path("data/sources"), vocab_from=corpus_dir / "sources")
    printed = refusal(capsys, EXIT_DATA, "bytes")
    assert "data/sources: the prepared corpus is not the one this run was trained on" in printed
    advice = re.search(r"To evaluate on it anyway: simsmoe (eval .*)\n", printed)
    assert advice
    assert evaluate(capsys, *shlex.split(advice[1])[1:])["tokens"] > 0


# Trouble


def test_damage_is_never_evaluated(capsys: Capture) -> None:
    folder = own_runs() / "bytes/checkpoints/step-0000008"
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert "its checksum does not match" in refusal(
        capsys, EXIT_DATA, "bytes", "--checkpoint", "last"
    )
    assert evaluate(capsys, "bytes", "--checkpoint", "4")["step"] == 4


def test_weights_that_give_no_number_are_still_json(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = weights.open_model

    def ruined(*arguments: Any) -> Any:
        model = opened(*arguments)
        model.output.weight.data[:] = torch.nan
        return model

    monkeypatch.setattr(weights, "open_model", ruined)
    report = evaluate(capsys, "bytes")
    assert (report["loss_nats"], report["bpc"]) == (None, None)


def test_out_of_memory(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*args: Any, **settings: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(evaluate_run, "evaluate_split", greedy)
    assert refusal(capsys, EXIT_OUT_OF_MEMORY, "bytes") == (
        "simsmoe: error: out of memory on cpu. Use --device cpu, or a machine with more memory.\n"
    )


def test_a_device_there_is_none_of(capsys: Capture) -> None:
    assert "--device: unknown device 'gpu'" in refusal(
        capsys, EXIT_USAGE, "bytes", "--device", "gpu"
    )


def test_a_run_still_in_training_can_be_evaluated(capsys: Capture, corpus_dir: Path) -> None:
    """Reading takes no lock."""
    run = RunDir(own_runs() / "bytes")
    with run.locked():
        assert evaluate(capsys, "bytes")["step"] == 8


def test_a_run_that_saved_nothing_yet(capsys: Capture) -> None:
    Path("young").mkdir()
    Path("young/recipe.yaml").write_text(dump_recipe(recipe()))
    assert "none; the run saved no checkpoint yet" in refusal(capsys, EXIT_DATA, "young")


def forget_the_test(run: RunDir) -> None:
    """Make it a run that was stopped between its last step and its test."""
    *before, _, _ = run.events.read_bytes().splitlines(keepends=True)
    step = recipe().train.steps
    stopped = {"kind": "run_finished", "step": step, "status": "trained", "reason": "not tested"}
    run.events.write_bytes(b"".join(before) + json.dumps(stopped).encode() + b"\n")


def test_eval_finishes_a_run_that_was_trained_and_not_tested(capsys: Capture) -> None:
    shutil.copytree("runs/bytes", "here/bytes")
    run = RunDir(Path("here/bytes"))
    forget_the_test(run)
    whole = events(RunDir(Path("runs/bytes")))
    for other in (["--split", "valid"], ["--top-k", "1"], ["--checkpoint", "last"]):
        assert not evaluate(capsys, "here/bytes", *other)["finished"]
    assert evaluate(capsys, "here/bytes")["finished"]
    assert not evaluate(capsys, "here/bytes")["finished"]
    tested, finished = events(run)[-2:]
    expected = whole[-1] | {"reason": "all steps done; tested afterwards"}
    assert without_times(finished) == without_times(expected)
    assert without_times(tested) == without_times(whole[-2])


def test_eval_finishes_a_run_by_as_much_of_the_test_as_its_training_reads(
    capsys: Capture, corpus_dir: Path
) -> None:
    made = recipe()
    assert made.eval.final_blocks
    run = RunDir(Path("part"))
    session.train(Plan(made, run, None), session.open_store(made, corpus_dir), torch.device("cpu"))
    trained = events(run)[-1]
    forget_the_test(run)
    assert main.run(["eval", "part"]) == 0
    printed = capsys.readouterr().out
    assert events(run)[-1]["test_loss_nats"] == trained["test_loss_nats"]
    whole = evaluate(capsys, "part")
    assert not whole["finished"]
    assert whole["tokens"] == whole["split_tokens"]
    part = events(run)[-2]["tokens"]
    assert f"({part:,} of {whole['tokens']:,} bytes, " in printed
    assert "run this again for the whole split" in printed
