"""The amount that a report measures: as requested (`Options`), and bounded per layer (`Bounds`).

Measures whose cost grows faster than the number of rows are bounded (`Options.products`,
`Options.matching`). They then use fewer rows, pairs of rows, hidden units or pairs of experts, and
the findings say how many.

Shapes: T rows, D model width, N experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from simsmoe_cli.collapse.measure.linear_cka import partners

FEWEST_SAMPLED = 32  # the fewest rows of a measure whose time is bounded
DENSE_BYTES = 2**28  # of the outputs that all experts compute at once
NULL_EXPERTS = 16  # that are shuffled in a pass, at most: 120 pairs
OF_RUNNING = 24  # comparing may cost a 24th of running all experts, whatever the options say
RBF_PASSES = 4  # exponentials and sums of a kernel cost as much as this many products
OF_AN_EIGENVALUE = 64  # multiplications per entry of a matrix to get its eigenvalues


@dataclass(frozen=True)
class Options:
    """How much is measured, and how closely.

    Attributes:
        rows: tokens that all experts see.
        tokens: tokens read for load, routing and loss; None: four times the rows.
        blocks, resamples, level: of the bootstrap.
        rbf_rows, rank_rows: rows of the RBF CKA and of the effective rank at most. The cost of both
            grows faster than the rows.
        ablate_tokens: tokens read again for each expert that is left out and each pair that is
            merged; None: ABLATE_TOKENS, or fewer for a large model; 0: nothing is left out.
        products: multiplications allowed for each measure of a layer whose cost grows faster than
            the rows (Gram matrices, RBF kernels, effective ranks); or a 24th of those of running
            all experts, if that is more.
        matching: multiplications that the matching of hidden units of a layer may cost.
        seed: of everything that is drawn.
    """

    rows: int = 4096
    tokens: int | None = None
    blocks: int = 32
    resamples: int = 1000
    level: float = 0.95
    rbf_rows: int = 512
    rank_rows: int = 1024
    ablate_tokens: int | None = None
    products: float = 4e10
    matching: float = 2e10
    seed: int = 0

    @property
    def all_tokens(self) -> int:
        """How many tokens are read."""
        return max(self.tokens or 4 * self.rows, self.rows)


@dataclass(frozen=True)
class Bounds:
    """The limits, for one layer, of measures whose cost grows faster than the number of rows.

    Attributes:
        products: multiplications that each of them may cost.
        partners: of a block of rows in the linear CKA, as in `linear_cka.cka_with_interval`.
        rbf_rows, rank_rows: rows of the RBF CKA and of the effective rank.
    """

    products: float
    partners: int | None
    rbf_rows: int
    rank_rows: int

    @classmethod
    def of(cls, options: Options, weights: int, experts: int, rows: int, width: int) -> Bounds:
        """The bounds of a layer of N experts with so many weights, T rows and D features."""
        products = max(options.products, rows * weights / OF_RUNNING)
        rbf = int((products / (RBF_PASSES * experts * width)) ** 0.5)
        rank = int((products / (experts * OF_AN_EIGENVALUE)) ** (1 / 3))
        if rank >= width:  # the matrix whose eigenvalues are taken is no larger
            rank = rows
        return cls(
            products,
            partners(experts, rows, width, options.blocks, products),
            min(rows, options.rbf_rows, max(rbf, FEWEST_SAMPLED)),
            min(rows, options.rank_rows, max(rank, FEWEST_SAMPLED)),
        )
