"""Two runs compared in words."""

from __future__ import annotations

from simsmoe_cli.collapse.findings import Findings
from tests.collapse.varied import sentence, varied


def test_another_run_is_compared_by_intervals(base: Findings) -> None:
    ours, theirs = varied(base, 0.1, 0.1, 0.1, 0.1), varied(base, 0.3, 0.3, 0.3, 0.1)
    named = theirs.subject.model_copy(update={"name": "plain"})
    theirs = theirs.model_copy(update={"subject": named})
    less = sentence(ours, "less similar than those of plain", theirs)
    assert less.tone == "good"
    assert less.evidence["layers_apart"] == 3
    assert "0.10 against 0.25" in less.text
    assert sentence(theirs, "more similar than", ours).tone == "note"
    assert sentence(ours, "about as similar as", ours).evidence["layers_apart"] == 0
    assert "BPC" in sentence(ours, "predicts this text", theirs).text


def test_other_text_is_a_warning(base: Findings) -> None:
    text = base.text.model_copy(update={"split": "test"})
    theirs = base.model_copy(update={"text": text})
    assert sentence(base, "measured on other text", theirs).tone == "warning"
