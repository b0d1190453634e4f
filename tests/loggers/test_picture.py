"""The matrices of a probe as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from simsmoe_cli.loggers.picture import BACKGROUND, GAP, UNDEFINED, heat_maps
from simsmoe_cli.run.probes import Matrices


def test_each_layer_is_a_heat_map_in_the_colours_of_the_report() -> None:
    cka_LNN = np.zeros((2, 4, 4), np.float32)
    cka_LNN[0, 0, 1], cka_LNN[0, 0, 2], cka_LNN[1, 0, 1] = 1.0, np.nan, -0.3
    picture = heat_maps(Matrices((0, 1), cka_LNN, np.zeros_like(cka_LNN)))
    assert picture.shape == (160, 160 + GAP + 160, 3)
    cell = 160 // 4
    first_row = [picture[5, cell * column + 5].tolist() for column in range(4)]
    grey, similar, different = [UNDEFINED] * 3, [0xFD, 0xE7, 0x25], [0x44, 0x01, 0x54]
    assert first_row == [grey, similar, grey, different]  # the diagonal is undefined
    assert picture[5, 160 + GAP + cell + 5].tolist() == different  # below 0 as well
    assert picture[5, 160 + GAP // 2].tolist() == [BACKGROUND] * 3


@pytest.mark.parametrize(("layers", "experts"), [(1, 1), (30, 64), (3, 500)])
def test_it_stays_small(layers: int, experts: int) -> None:
    cka_LNN = np.zeros((layers, experts, experts), np.float32)
    height, width, _ = heat_maps(Matrices(tuple(range(layers)), cka_LNN, cka_LNN)).shape
    assert max(height, width) <= 6 * (max(160, experts) + GAP)
