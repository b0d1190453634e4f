"""Findings: what they require of each layer, and that every field is documented."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel

from simsmoe_cli.collapse.findings import LayerFindings, Null, Overall
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.subject import Text
from simsmoe_cli.errors import UserError


def test_a_report_without_labels_gets_those_of_its_modules(report: Report) -> None:
    found = json.loads(report.to_json())
    for findings in (*found["findings"], found["against"]):
        for layer in findings["layers"]:
            layer["name"] = "model.layers.4.mlp"
            del layer["label"]
    assert [layer.label for layer in Report.from_json(json.dumps(found)).main.layers] == ["4"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layer: layer["cka"].pop(), "cka is not a matrix of 5 experts"),
        (lambda layer: layer["load"].pop(), "load is not of 5 experts"),
        (lambda layer: layer.update(dead=[5]), "an expert beyond the 5"),
        (lambda layer: layer.update(dead=[-1]), "greater than or equal to 0"),
        (lambda layer: layer.update(load_cv="high"), "valid number"),
        (lambda layer: layer.update(load_cv=math.nan), "finite number"),
        (lambda layer: layer.update({"x" * 5000: 1}), "not permitted"),
    ],
)
def test_an_edited_report_is_refused_with_one_line_that_says_where(
    report: Report, change: Any, words: str
) -> None:
    found = json.loads(report.to_json())
    change(found["findings"][0]["layers"][0])
    with pytest.raises(UserError, match="not a collapse report") as caught:
        Report.from_json(json.dumps(found), "there.json")
    assert words in str(caught.value)
    assert "findings.0.layers.0" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_every_quantity_of_a_layer_is_documented() -> None:
    models: list[type[BaseModel]] = [LayerFindings, Overall, Text]
    known = {"experts", "layer", "corpus", "split", "perplexity", "load_max_over_mean"}
    for model in models:
        for name, info in model.model_fields.items():
            documented = info.description or name in known or info.annotation is Null
            assert documented, f"{model.__name__}.{name}"
