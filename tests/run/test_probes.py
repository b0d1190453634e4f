"""Files of probes: what is written is read, and what is damaged, foreign or huge is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.files.untrusted import Unreadable
from simsmoe_cli.run import probes
from simsmoe_cli.run.folder import RunDir

NAME = "probes/step-0000012.npz"
CKA = np.array([[[1, 0.5, np.nan], [0.5, 1, -0.25], [np.nan, -0.25, 1]]] * 2, dtype=np.float32)
SHARED = np.array([[[0, 3, 8], [3, 0, 1], [8, 1, 0]]] * 2, dtype=np.int32)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    write(run, 12)
    return run


def write(run: RunDir, step: int) -> str:
    return probes.write(run, step, measure="cka", tokens=8, cka_LNN=CKA, shared_LNN=SHARED)


def saved(path: Path, **changes: Any) -> None:
    """The file of a probe with some of its arrays changed."""
    arrays = {
        "cka": CKA,
        "shared": SHARED,
        "layers": np.arange(2),
        "tokens": np.int64(8),
        "measure": np.str_("cka"),
    }
    np.savez(path, **(arrays | changes))


def test_what_is_written_is_read(run: RunDir) -> None:
    found = probes.read(run.path, NAME)
    assert found.layers == (0, 1)
    np.testing.assert_array_equal(found.cka_LNN, CKA)
    np.testing.assert_array_equal(found.shared_LNN, SHARED / np.float32(8))
    assert [path.name for path in run.probes.iterdir()] == ["step-0000012.npz"]


def test_similarity_on_shared_tokens_is_read_where_it_was_written(run: RunDir) -> None:
    assert probes.read(run.path, NAME).cka_shared_LNN is None  # a file of an earlier version
    shared = CKA.copy()
    shared[1, 0, 1] = shared[1, 1, 0] = np.inf
    saved(run.path / NAME, cka_shared=shared)
    found = probes.read(run.path, NAME).cka_shared_LNN
    assert found is not None
    shared[~np.isfinite(shared)] = np.nan
    np.testing.assert_array_equal(found, shared)
    summary = probes.layer_summary(1, CKA[1], found[1])
    assert (summary["shared_mean"], summary["shared_pairs"]) == (-0.25, 1)
    saved(run.path / NAME, cka_shared=shared[:1])
    with pytest.raises(Unreadable, match="damaged"):
        probes.read(run.path, NAME)


def test_a_file_is_the_same_whenever_it_is_written(run: RunDir) -> None:
    before = (run.path / NAME).read_bytes()
    assert write(run, 12) == NAME
    assert (run.path / NAME).read_bytes() == before


def test_files_of_later_steps_and_of_killed_writers_are_discarded(run: RunDir) -> None:
    write(run, 13)
    write(run, 12345678)
    (run.probes / ".step-0000014.npz.partial-abcd").write_bytes(b"half")
    (run.probes / "notes.txt").write_text("mine")
    probes.discard_after(run, 12)
    assert sorted(path.name for path in run.probes.iterdir()) == ["notes.txt", "step-0000012.npz"]
    probes.discard_after(RunDir(run.path / "none"), 0)


@pytest.mark.parametrize(
    "name",
    [
        "../run/probes/step-0000012.npz",
        "/etc/passwd",
        "probes/../recipe.yaml",
        "",
        "probes/step-1.npz",
    ],
)
def test_only_the_file_of_a_probe_is_opened(run: RunDir, name: str) -> None:
    with pytest.raises(Unreadable, match="is not what the file of a probe is called"):
        probes.read(run.path, name)


def test_links_are_not_followed(run: RunDir, tmp_path: Path) -> None:
    (run.probes / "step-0000013.npz").symlink_to("step-0000012.npz")
    with pytest.raises(Unreadable, match="symbolic link"):
        probes.read(run.path, "probes/step-0000013.npz")
    other = tmp_path / "other"
    other.mkdir()
    (other / "probes").symlink_to(run.probes)
    with pytest.raises(Unreadable, match="symbolic link"):
        probes.read(other, NAME)


def test_a_file_that_is_not_there_is_said(run: RunDir) -> None:
    with pytest.raises(Unreadable, match="is not there"):
        probes.read(run.path, "probes/step-0000013.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"cka": CKA.astype(np.float64)},
        {"cka": CKA[:, :2]},
        {"cka": CKA[0]},
        {"cka": np.asfortranarray(CKA)},
        {"cka": np.array([{"a": 1}], dtype=object)},
        {"shared": SHARED[:1]},
        {"layers": np.arange(3)},
        {"tokens": np.arange(2)},
        {"tokens": np.array("eight")},
    ],
)
def test_arrays_that_are_not_what_they_should_be_are_refused(
    run: RunDir, changes: dict[str, Any]
) -> None:
    saved(run.path / NAME, **changes)
    with pytest.raises(Unreadable, match="is damaged"):
        probes.read(run.path, NAME)


def test_counts_that_cannot_be_and_infinite_similarities_are_unknown(run: RunDir) -> None:
    shared, cka = SHARED.copy(), CKA.copy()
    shared[0, 0, 1], shared[0, 1, 0], cka[1, 0, 1] = 9, -1, np.inf
    saved(run.path / NAME, shared=shared, cka=cka)
    found = probes.read(run.path, NAME)
    assert np.isnan([found.shared_LNN[0, 0, 1], found.shared_LNN[0, 1, 0]]).all()
    assert np.isnan(found.cka_LNN[1, 0, 1])


def test_a_file_that_would_unpack_to_more_than_it_is_is_refused(run: RunDir) -> None:
    np.savez_compressed(run.path / NAME, cka=np.zeros((2, 3000, 3000), dtype=np.float32))
    with zipfile.ZipFile(run.path / NAME, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in ("shared", "layers", "tokens"):
            archive.writestr(f"{name}.npy", b"\0" * 10**6)
    assert (run.path / NAME).stat().st_size < 100_000
    with pytest.raises(Unreadable, match="compressed"):
        probes.read(run.path, NAME)


def test_a_header_that_claims_a_huge_shape_is_refused(run: RunDir) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": (2, 10**9, 10**9)}
    )
    with zipfile.ZipFile(run.path / NAME, "w") as archive:
        archive.writestr("layers.npy", npy(np.arange(2)))
        archive.writestr("cka.npy", content.getvalue())
    with pytest.raises(Unreadable, match="is damaged"):
        probes.read(run.path, NAME)


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_a_file_cut_anywhere_is_refused(run: RunDir) -> None:
    whole = (run.path / NAME).read_bytes()
    for length in range(0, len(whole), 37):
        (run.path / NAME).write_bytes(whole[:length])
        with pytest.raises(Unreadable):
            probes.read(run.path, NAME)


def test_a_file_that_is_too_large_is_refused(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_BYTES", 100)
    with pytest.raises(Unreadable, match="more than 100 bytes"):
        probes.read(run.path, NAME)


def test_the_most_similar_pairs_come_first_and_undefined_ones_not_at_all() -> None:
    found = probes.most_similar_pairs(CKA[0], 5)
    assert found == [(0, 1, 0.5), (1, 2, -0.25)]
    assert probes.most_similar_pairs(CKA[0], 1) == found[:1]


def test_matrices_of_schema_1_are_those_of_the_event() -> None:
    layers = [
        {"layer": 4, "cka": [[1, None], [None, 1]], "shared": [[0, 0.25], [0.25, 0]]},
        {"layer": 5, "cka": [[1, 0.5], [0.5, 1]]},
        {"layer": 6, "cka": [[1]]},
        {"layer": 7, "cka": [[1, 2], [3]], "shared": "x"},
        {"layer": 8},
    ]
    found = probes.of_schema_1(layers)
    assert found is not None
    assert found.layers == (4, 5)
    assert np.isnan(found.cka_LNN[0, 0, 1])
    assert found.shared_LNN[0, 0, 1] == 0.25
    assert np.isnan(found.shared_LNN[1]).all()
    assert probes.of_schema_1(layers[3:]) is None
