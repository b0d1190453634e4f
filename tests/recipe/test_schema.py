"""Recipes: what a file and --set may say, and everything that is wrong with one at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsmoe_cli import registry
from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from simsmoe_cli.recipe.schema import Recipe, fields
from simsmoe_cli.recipe.similarity import PRESETS


def problem(name: str, *overrides: str) -> str:
    """What is said about the recipe; it must be one problem on one line."""
    with pytest.raises(UserError) as caught:
        load_recipe(name, overrides)
    assert caught.value.code == EXIT_USAGE
    text = str(caught.value)
    assert "\n" not in text
    return text


def loaded(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_recipe(str(file), overrides)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=1e-3", "train.lr", 0.001),
        ("train.lr=1E+0", "train.lr", 1.0),
        ("train.lr=.5", "train.lr", 0.5),
        ("train.lr=1", "train.lr", 1.0),
        ("train.steps=50_000", "train.steps", 50_000),
        ("train.seed=010", "train.seed", 10),
        ("train.compile=on", "train.compile", "on"),
        ("train.compile=off", "train.compile", "off"),
        ("train.betas=[0.9, 95e-2]", "train.betas", [0.9, 0.95]),
        ("similarity.sigma=median", "similarity.sigma", "median"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("name=12", "name", "12"),
        ("name='12'", "name", "12"),
        ("description=a: b, [c", "description", "a: b, [c"),
        ("description=1:30", "description", "1:30"),
        ("model.bias=true", "model.bias", True),
        ("train={lr: 2e-3}", "train.lr", 0.002),
    ],
)
def test_set_takes_values_as_people_write_them(override: str, path: str, value: Any) -> None:
    preset = ["similarity.preset=published"] if "sigma" in path else []
    recipe = load_recipe("quickstart", [*preset, override])
    found: Any = recipe
    for step in path.split("."):
        found = getattr(found, step)
    assert found == value
    assert type(found) is type(value)
    assert recipe.train.batch == load_recipe("quickstart").train.batch


def test_files_take_the_same_values(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "train:\n  lr: 1e-3\n  compile: off\ndata:\n  corpus: no\n")
    assert (recipe.train.lr, recipe.train.compile, recipe.data.corpus) == (1e-3, "off", "no")


def test_the_last_of_several_overrides_wins() -> None:
    assert load_recipe("quickstart", ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_a_recipe_without_a_name_takes_its_files(tmp_path: Path) -> None:
    file = tmp_path / "my first try!.yaml"
    file.write_text("train: {steps: 5}\n")
    assert load_recipe(str(file)).name == "my-first-try"


def test_a_name_that_ships_wins_over_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("name: other\n")
    assert load_recipe("quickstart").name == "quickstart"
    assert load_recipe("./quickstart").name == "other"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_given_by_override_replaces_the_files_section(tmp_path: Path, preset: str) -> None:
    text = "similarity: {preset: paper, weight: 0.5, pairs: 9, head_frozen: true}\n"
    recipe = loaded(tmp_path, text, f"similarity.preset={preset}")
    assert recipe == loaded(tmp_path, f"similarity: {{preset: {preset}}}\n")
    assert recipe.similarity.model_dump().items() >= PRESETS[preset].items()


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_of_single_fields_stay_beside_one_of_the_preset(
    tmp_path: Path, order: int
) -> None:
    overrides = ["similarity.preset=published", "similarity.pairs=7"][::order]
    recipe = loaded(tmp_path, "similarity: {preset: paper, weight: 0.5}\n", *overrides)
    assert recipe.similarity.pairs == 7
    assert recipe.similarity.weight == PRESETS["published"]["weight"]


def test_fields_of_a_file_stay_where_the_preset_is_not_overridden(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "similarity: {preset: paper, weight: 0.5}\n", "similarity.pairs=7")
    assert (recipe.similarity.weight, recipe.similarity.pairs) == (0.5, 7)
    assert recipe.similarity.head == PRESETS["paper"]["head"]


@settings(deadline=None)
@given(
    st.text(),
    st.text(st.characters(exclude_categories=["C"])),
    st.floats(1e-12, 1e6),
    st.sampled_from(sorted(PRESETS)),
    st.booleans(),
)
def test_a_dumped_recipe_loads_equal(
    tmp_path_factory: pytest.TempPathFactory,
    description: str,
    corpus: str,
    lr: float,
    preset: str,
    comments: bool,
) -> None:
    recipe = Recipe.model_validate(
        {
            "description": description,
            "data": {"corpus": corpus},
            "train": {"lr": lr},
            "similarity": {"preset": preset},
        }
    )
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(dump_recipe(recipe, comments=comments), encoding="utf-8")
    assert load_recipe(str(file)) == recipe


def test_schedules_are_written_as_they_are_read() -> None:
    points = "[[0.0, 0.0], [0.1, 0.003]]"
    recipe = load_recipe("quickstart", [f"similarity.weight={points}"])
    assert recipe.similarity.weight == [[0.0, 0.0], [0.1, 0.003]]
    assert f"  weight: {points}\n" in dump_recipe(recipe)
    assert f"  weight: {points}\n" in dump_recipe(recipe, comments=True)


@pytest.mark.parametrize("text", ["on", "1e-3", "null", "2024-01-01", "0x10", "~", "", "1:30"])
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, text: str) -> None:
    recipe = Recipe.model_validate({"description": text})
    assert loaded(tmp_path, dump_recipe(recipe)).description == text


def test_comments_document_every_field() -> None:
    recipe = Recipe.model_validate({"moe": {"router": "xmoe"}})
    lines = dump_recipe(recipe, comments=True).splitlines()
    text = " ".join(" ".join(line.strip().lstrip("#") for line in lines).split())
    assert "xmoe.tau" in {field.path for field in fields(recipe)}
    for field in fields(recipe):
        assert field.help in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=many", "train.steps: expected a whole number, got 'many'"),
        ("train.steps=1e3", "train.steps: expected a whole number, got 1000.0. Write 1000."),
        ("train.steps=2.5", "train.steps: expected a whole number, got 2.5"),
        ("train.steps=", "train.steps: expected a whole number, got nothing"),
        ("train.steps=true", "train.steps: expected a whole number, got true"),
        ("train.steps=0", "train.steps: expected a number of at least 1, got 0"),
        ("train.lr=-1", "train.lr: expected a number above 0"),
        ("train.lr=.nan", "train.lr: expected a finite number, got nan"),
        ("model.dropout=1.0", "model.dropout: expected a number below 1"),
        (
            "similarity.threshold=2",
            "similarity.threshold: expected a number of at most 1, got 2. Meaning: T*: what is "
            "less alike than this adds no loss; 0 is chance, 1 the same.",
        ),
        ("competesmoe.version=2", "competesmoe.version: expected one of 1, 2025, got 2"),
        ("model.bias=1", "model.bias: expected true or false, got 1"),
        ("train.betas=0.9", "train.betas: expected a list, got 0.9"),
        ("train.betas=[0.9]", "train.betas: expected 2 values, got [0.9]"),
        ("train.betas=[0.9, x]", "train.betas: item 2: expected a number, got 'x'"),
        ("train.betas=[0.9, 1.0]", "train.betas: must each be at least 0 and below 1"),
        ("train=5", "train: expected a section of fields, got 5"),
        ("train.optimizer=adan", "got 'adan'. Did you mean 'adam'?"),
        ("similarity.preset=[a]", "similarity.preset: expected one of none, published, paper"),
        (
            "similarity.sigma=wide",
            "similarity.sigma: expected a number, 'median' or a schedule, got 'wide'",
        ),
        ("similarity.sigma=-1", "similarity.sigma: expected a number above 0, got -1"),
        ("similarity.weight=[0, 1]", "similarity.weight: item 1: expected a list, got 0"),
        ("similarity.weight=[[0, a], [1, 1]]", "weight: item 1: expected a number, got 'a'"),
        (
            "similarity.weight=[[0, 0.1]]",
            "similarity.weight: a schedule needs at least two points [share of training, value]. "
            "For example [[0, 0.0], [0.1, 0.5]].",
        ),
        ("similarity.weight=[[0, 1, 2], [1, 1, 2]]", "a schedule needs at least two points"),
        (
            "similarity.threshold=[[0, 0.5], [0.5, 1.5]]",
            "similarity.threshold: values must be within 0..1, got 1.5",
        ),
        ("similarity.weight=[[0, 0.5], [1, -0.5]]", "values must be within 0..1e+06, got -0.5"),
        (
            "similarity.check_every=[[0.5, 1], [0.5, 2]]",
            "similarity.check_every: shares of training must ascend within 0..1, got [0.5, 0.5]",
        ),
        ("similarity.weight=[[0, 1], [100, 0]]", "must ascend within 0..1, got [0.0, 100.0]"),
        ("similarity.temperature=0", "similarity.temperature: expected a number above 0, got 0"),
        ("similarity.temperature=hot", "expected a number or 'auto', got 'hot'"),
        ("similarity.scope=pair", "got 'pair'. Did you mean 'pairs'?"),
        ("model.pattern=sxg", "model.pattern: expected text that matches ^[sgf]+$, got 'sxg'"),
        ("name=a b", "name: expected text that matches"),
        ("train.stepz=3", "train.stepz: unknown key. Did you mean 'steps'?"),
        ("trian.steps=3", "trian: unknown key. Did you mean 'train'?"),
        ("steps=3", "steps: unknown key. Did you mean 'train.steps'?"),
        ("moe.router=smoo", "moe.router: unknown router 'smoo'. Did you mean 'smoe'?"),
        (
            "similarity.measure=cka_linear",
            "similarity.measure: unknown measure 'cka_linear'. Did you mean 'cka-linear'?",
        ),
        ("train.steps", "--set train.steps: expected FIELD=VALUE"),
        ("=3", "--set =3: expected FIELD=VALUE"),
        ("train..lr=3", "--set train..lr=3: expected FIELD=VALUE"),
        ("train.lr=[", "--set train.lr=[: the value is not valid YAML"),
        ("train={lr: 1, lr: 2}", "--set train={lr: 1, lr: 2}: the value is not valid YAML"),
    ],
)
def test_each_mistake_is_named_with_its_value_and_what_would_do(
    override: str, expected: str
) -> None:
    assert expected in problem("quickstart", override)


@pytest.mark.parametrize("value", ["-1", "2", "1e9", ".inf", "true", "x", "[1, x]", "{a: 1}", ""])
def test_no_value_of_any_field_ends_in_a_traceback(value: str) -> None:
    """Routers' sections too, each with its router chosen."""
    codes = []
    for field in fields():
        section = field.path.partition(".")[0].replace("_", "-")
        router = [f"moe.router={section}"] if section in registry.ROUTERS else []
        try:
            load_recipe("quickstart", [f"{field.path}={value}", *router])
        except UserError as error:
            codes.append(error.code)
    assert len(codes) > 20
    assert set(codes) == {EXIT_USAGE}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.heads=5"],
            "model.heads: 5 heads do not divide the width 128. The nearest number that does is 4.",
        ),
        (
            ["model.heads=128"],
            "model.heads: rope needs an even head width, and 128/128 is odd",
        ),
        (
            ["model.moe_norm=double", "model.pattern=sf", "similarity.preset=none"],
            "pattern 'sf' has no g",
        ),
        (["model.attention=relative", "model.rope_base=5e5"], "model.rope_base: has no effect"),
        (["moe.top_k=9"], "moe.top_k: 9 experts per token are more than the 8 there are"),
        (["moe.hidden=250", "moe.backend=grouped"], "needs a multiple of 8, got 250"),
        (
            ["similarity.preset=none", "similarity.threshold=0.5"],
            "similarity.threshold: has no effect with similarity.preset none",
        ),
        (["model.pattern=sf", "similarity.preset=paper"], "and pattern 'sf' has no g"),
        (
            ["moe.experts=1", "moe.top_k=1", "similarity.preset=paper"],
            "similarity.preset: similarity learning needs at least 2 experts",
        ),
        (["similarity.min_tokens=200"], "similarity.min_tokens: 200 is more than the 128 tokens"),
        (["similarity.sigma=median"], "similarity.sigma: has no effect with measure cka-linear"),
        (
            ["similarity.measure=infonce", "similarity.sigma=[[0, 1], [1, 2]]"],
            "similarity.sigma: has no effect with measure infonce. "
            "Leave it out, or set similarity.measure to cka-rbf.",
        ),
        (["similarity.temperature=0.5"], "has no effect with measure cka-linear-debiased"),
        (
            ["similarity.measure=rince-v1", "similarity.rince_q=0.2"],
            "similarity.rince_q: has no effect with measure rince-v1. "
            "Leave it out, or set similarity.measure to rince-v2.",
        ),
        (
            ["similarity.scope=experts", "similarity.spread_weight=2"],
            "similarity.spread_weight: has no effect with scope experts",
        ),
        (
            ["similarity.scope=layer", "similarity.pairs=9"],
            "similarity.pairs: has no effect with scope layer, which compares all experts",
        ),
        (
            ["similarity.scope=experts", "similarity.min_tokens=20"],
            "similarity.min_tokens: has no effect with scope experts",
        ),
        (
            ["similarity.scope=layer", "similarity.anywhere=false"],
            "similarity.anywhere: has no effect with scope layer",
        ),
        (
            ["similarity.scope=experts", "similarity.measure=cosine"],
            "similarity.measure: has no effect with scope experts",
        ),
        (
            ["similarity.measure=directclr", "similarity.directclr_width=129"],
            "similarity.directclr_width: 129 is more than the 128 features that are compared",
        ),
        (
            [
                "similarity.measure=directclr",
                "similarity.directclr_width=9",
                "similarity.head=linear",
            ],
            "9 is more than the 8 features that are compared. Use at most 8.",
        ),
        (["similarity.head_frozen=true"], "similarity.head_frozen: has no effect without a head"),
        (
            ["train.batch=16", "train.micro_batches=5"],
            "5 does not divide the batch of 16. The nearest number that does is 4.",
        ),
        (
            ["model.attention=relative", "train.order=shuffled"],
            "train.order: relative attention carries memory",
        ),
        (["train.warmup_steps=9000"], "9000 steps of warm-up are more than the 400 of training"),
        (["train.schedule=multistep"], "train.milestones: schedule multistep needs at least one"),
        (
            ["train.schedule=multistep", "train.milestones=[20, 10]"],
            "train.milestones: must be positive and ascending, got [20, 10]",
        ),
        (
            ["train.schedule=multistep", "train.milestones=[0, 10]"],
            "train.milestones: must be positive and ascending, got [0, 10]",
        ),
        (["train.milestones=[10]"], "train.milestones: has no effect with schedule cosine"),
        (["train.gamma=0.5"], "train.gamma: has no effect with schedule cosine"),
        (
            ["train.schedule=constant", "train.final_lr_ratio=0.1"],
            "Leave it out, or set train.schedule to linear or cosine.",
        ),
        (["eval.overlap=256"], "eval.overlap: 256 leaves nothing new in a block of 256"),
        (
            ["eval.overlap=1", "model.attention=relative"],
            "eval.overlap: relative attention carries its context along",
        ),
    ],
)
def test_contradictions_are_named(overrides: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.validate_every=0", "train.checkpoint_every=0", "train.probe_every=0"],
        ["moe.top_k=8"],
        ["moe.top_k=1"],
        ["similarity.preset=none", "moe.experts=1", "moe.top_k=1"],
        ["model.pattern=sf", "similarity.preset=none"],
        ["moe.hidden=250", "moe.backend=loop"],
        ["train.warmup_steps=300"],
        ["similarity.weight=[[0, 0], [1, 0.003]]", "similarity.threshold=[[0.1, 1], [0.2, 0.5]]"],
        ["similarity.scope=layer", "similarity.min_tokens=16"],
        ["similarity.preset=published", "similarity.scope=layer"],
        ["similarity.preset=published", "similarity.sigma=[[0, 0.9], [1, 0.8]]"],
        ["similarity.scope=layer", "similarity.tokens=4"],
        ["similarity.scope=experts", "similarity.temperature=0.5"],
        ["similarity.measure=directclr", "similarity.directclr_width=128"],
        ["similarity.measure=tico", "similarity.spread_weight=0"],
        ["eval.overlap=255"],
        ["model.attention=relative", "model.heads=128"],
    ],
)
def test_borders_are_allowed(overrides: list[str]) -> None:
    load_recipe("quickstart", overrides)


def test_mistakes_of_every_kind_are_reported_together(tmp_path: Path) -> None:
    text = "model: {width: wide, heads: 3}\nmoe: {top_k: 99}\nmoe: {top_k: 98}\ntrain: {lrr: 1}\n"
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, text, "moe.router=smo", "nonsense")
    first, *lines = str(caught.value).splitlines()
    assert first == f"6 problems in recipe {tmp_path / 'mine.yaml'}"
    for start in (
        "  line 3: the key 'moe' is given twice",
        "  --set nonsense: expected FIELD=VALUE",
        "  model.width: expected a whole number, got 'wide'",
        "  train.lrr: unknown key. Did you mean 'lr'?",
        "  moe.top_k: 98 experts per token are more than the 8",
        "  moe.router: unknown router 'smo'",
    ):
        assert any(line.startswith(start) for line in lines)
    # Whether 3 heads divide the width cannot be said while the width is no number.
    assert "divide" not in str(caught.value)


def test_a_dotted_key_in_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Write 'lr' inside the section 'train'"):
        loaded(tmp_path, "train.lr: 1e-3\n")


def test_field_paths_are_unique_and_their_documentation_is_not_empty() -> None:
    paths = [field.path for field in fields()]
    assert len(paths) == len(set(paths))
    assert all(field.help and field.type for field in fields())


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("name: a\nmoe: {hidden: !!int abc}\n", 2, "recipes have no tags, such as !!int"),
        ("moe: {hidden: !!bool maybe}\n", 1, "recipes have no tags, such as !!bool"),
        ("a: !!timestamp x\n", 1, "recipes have no tags"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "recipes have no tags"),
        ("a: !!binary '='\n", 1, "recipes have no tags"),
        ("!!set {a}\n", 1, "recipes have no tags"),
        ("!!omap [a: 1]\n", 1, "recipes have no tags"),
        ("a: ! b\n", 1, "recipes have no tags"),
        ("!a b: 1\n", 1, "recipes have no tags"),
        ("name: a\nmoe: &x {hidden: 8}\n", 2, "recipes have no anchors"),
        ("name: a\nmoe: *x\n", 2, "recipes have no anchors"),
        ("name: a\n? [x]\n: 1\n", 2, "a key must be a name"),
        ("name: a\n---\nname: b\n", 2, "a recipe is one document, and this is another"),
        ("name: a\nsource: \x00\n", 2, "the character '\\x00' is not allowed"),
        ("name: a\n\nsource: \x1b[31m\n", 3, "the character '\\x1b' is not allowed"),
        ("train:\n\tsteps: 3\n", 2, "found character '\\t' that cannot start any token"),
        ('name: a\nsource: "\\ud800"\n', 2, "an escape that is no character"),
        ('name: a\nsource: "\\UFFFFFFFF"\n', 2, "an escape that is no character"),
        ("train: {seed: " + "9" * 5000 + "}\n", 1, "a whole number of 5,000 digits is too large"),
        ("a: " + "[" * 50_000, 1, "nested too deeply"),
        ("{a: " * 50_000, 1, "nested too deeply"),
        ("- " * 50_000, 1, "nested too deeply"),
    ],
)
def test_what_yaml_could_say_and_a_recipe_cannot(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    assert problem(str(file)).startswith(f"{file}:{line}: not valid YAML: {said}")
    value = text.rstrip().partition(": ")[2]
    if text.startswith("a: ") and "\n" not in value:
        assert f"the value is not valid YAML: {said}" in problem("quickstart", f"train.lr={value}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the recipe is empty"),
        (b"# nothing\n", "the recipe is empty"),
        (b"- a\n", "a recipe is a mapping of fields"),
        (b"text", "a recipe is a mapping of fields"),
        (b"\xff\xfea\x00", "not a text file in UTF-8"),
        (b"a: 1\n" * 200_000, "the recipe has more than 500,000 bytes"),
        (b"<<: {train: {steps: 3}}\n", "<<: unknown key"),
        (b"1: 2\n", "1: unknown key"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert said in problem(str(file))


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeffname: mine\n").name == "mine"


def test_what_is_no_file_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "not a regular file" in problem(str(tmp_path / "fifo.yaml"))
    assert "no such recipe file" in problem(str(tmp_path / "loop.yaml"))
    assert "got a folder" in problem(str(tmp_path))
    assert "File name too long" in problem("x" * 5000)
    assert "unknown recipe 'a\\x1b[31mow'" in problem("a\x1b[31mow")


@pytest.mark.parametrize("value", ["1" + "0" * 30, "-1" + "0" * 30, "1e308", "-1e308"])
def test_every_number_has_bounds_that_are_named(value: str) -> None:
    tried = 0
    for field in fields():
        section = field.path.partition(".")[0].replace("_", "-")
        router = [f"moe.router={section}"] if section in registry.ROUTERS else []
        # None of them is as large as these, whatever the field means.
        given = f"[{value}, {value}]" if field.type.startswith("list") else value
        if "number" in field.type:
            with pytest.raises(UserError, match=rf"{re.escape(field.path)}: "):
                load_recipe("quickstart", [f"{field.path}={given}", *router])
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.probe_tokens=1" + "0" * 30, "of at most 10,000,000, got 1000"),
        ("moe.hidden=1" + "0" * 18, "of at most 10,000,000, got 1000"),
        ("moe.balance_weight=-1", "of at least 0, got -1"),
        ("model.repeats=1000", "3,000 sub-layers are more than the 2,000"),
        ("train.batch=1000000", "more than the 16,777,216"),
        ("train.milestones=[" + "1, " * 2000 + "1]", "at most 1,000 values, got 2,001"),
        ("data.corpus=\x1b[31mx", "no control characters are allowed, got '\\x1b[31mx'"),
        ("data.corpus='" + "x" * 5000 + "'", "at most 4,000 characters"),
        ("finetune.task=a\x1bb", "no control characters are allowed"),
        ("train.lr=" + "x" * 5000, "xxx"),
        ("a.b.c=1", "a field is SECTION.NAME or NAME"),
        (".".join("a" * 60_000) + "=1", "a field is SECTION.NAME or NAME"),
        ("train.steps=&a 3", "recipes have no anchors"),
    ],
)
def test_what_is_out_of_bounds_is_said_shortly(override: str, expected: str) -> None:
    said = problem(
        "quickstart", *(["model.pattern=sgf"] if "repeats" in override else []), override
    )
    assert expected in said
    assert said.isprintable()
    assert len(said) < 700


def test_of_thousands_of_unknown_keys_ten_are_named(tmp_path: Path) -> None:
    keys = "".join(f"key{number}: {'x' * 50}\n" for number in range(2000))
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, keys + "train: {stepz: 3}\n")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2,001 problems in recipe ")
    assert len(lines) == 12
    assert lines[1].startswith("  train.stepz: unknown key. Did you mean 'steps'?")
    assert lines[2].startswith("  key0: unknown key. Available: ")
    assert lines[-1] == "  and 1,991 more"
