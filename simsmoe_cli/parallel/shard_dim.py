"""Which dimension of a parameter FSDP2 divides among ranks."""

from __future__ import annotations

from collections.abc import Sequence


def shard_dim(shape: Sequence[int], ranks: int, *, divided: bool = False) -> int:
    """The dimension of a parameter, of one or more, that is divided among ranks.

    The first, unless there are more ranks than it has rows, as with experts: then most ranks would
    hold nothing, and padding would be sent. The next one that the ranks divide evenly, which FSDP2
    demands of all but the first, is taken instead.

    Args:
        shape: of the parameter, on one of the ranks that divide its experts.
        ranks: how many.
        divided: whether the first dimension is divided already, among ranks that share experts. It
            is then divided a second time only if no other can be.
    """
    if divided or shape[0] < ranks:
        for dim, size in enumerate(shape):
            if size % ranks == 0 and not (divided and dim == 0):
                return dim
    return 0
