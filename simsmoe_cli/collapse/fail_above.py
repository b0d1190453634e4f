"""`--fail-above`: fails a pipeline if the experts of a model are too similar."""

from __future__ import annotations

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.show.format import number
from simsmoe_cli.collapse.verdict.doubts import FEW_ROWS
from simsmoe_cli.errors import EXIT_COLLAPSE, UserError, printable
from simsmoe_cli.run.layer_labels import listed


def check_limit(limit: float) -> None:
    """Refuse a limit that a mean CKA cannot be compared with.

    Raises:
        UserError: it is not a number in [0, 1].
    """
    if not 0 <= limit <= 1:
        raise UserError(
            f"{limit:g} is not a limit for a CKA",
            where="--fail-above",
            hint="Use 0 to 1, like 0.8.",
        )


def fail_above(findings: Findings, limit: float) -> None:
    """Fail if the mean debiased CKA of any layer is above the limit, or is not known.

    It is not known if there are too few tokens, if most pairs of a layer are undefined, or if
    anything is not finite.

    Raises:
        UserError: with exit code 6; names the highest layer and those that are undefined.
    """
    means = {layer.label: layer.cka_mean.value for layer in findings.layers}
    above = {layer: mean for layer, mean in means.items() if mean is not None and mean > limit}
    undefined = [
        layer.label for layer in findings.layers if 2 * layer.cka_mean.n < layer.pair_count
    ]
    undefined += [label for label, mean in means.items() if mean is None and label not in undefined]
    broken = [layer.label for layer in findings.layers if not layer.finite]
    few = findings.text.rows < FEW_ROWS
    if not (above or undefined or broken or few):
        return
    said = []
    if few:
        said.append(f"{findings.text.rows:,} tokens are too few to know, use {FEW_ROWS} or more")
    if broken:
        said.append(
            f"{_named(broken)} {'has' if len(broken) == 1 else 'have'} values that are not finite"
        )
    if above:
        layer, mean = max(above.items(), key=lambda item: item[1])
        others = f" ({len(above)} of {len(means)} layers are above)" if len(above) > 1 else ""
        # As many decimals as tell the mean from the limit.
        digits = next((n for n in range(3, 17) if number(mean, n) != number(limit, n)), 17)
        said.append(
            f"the mean debiased CKA of layer {printable(layer)} is {number(mean, digits)}, "
            f"above {limit:g}{others}"
        )
    if undefined:
        said.append(
            f"{'that' if above else 'the mean debiased CKA'} of {_named(undefined)} is undefined, "
            f"so it is not known to be below {limit:g}"
        )
    raise UserError(
        "; ".join(said),
        where=findings.subject.name,
        code=EXIT_COLLAPSE,
    )


def partly_undefined(findings: Findings) -> list[str]:
    """A sentence for each layer whose mean leaves out undefined pairs."""
    return [
        f"layer {layer.label}: its mean leaves out {missing:,} of {layer.pair_count:,} pairs, "
        "which are undefined"
        for layer in findings.layers
        if layer.cka_mean.value is not None
        and (missing := sum(layer.cka[i][j] is None for i, j in layer.pairs()))
    ]


def _named(labels: list[str]) -> str:
    return f"layer{'s' if len(labels) > 1 else ''} {listed(labels)}"
