"""The matrices of probes, in files of their own: probes/step-NNNNNNN.npz in the run folder.

A similarity event contains only means and the name of this file, so that its line stays short with
many experts. Shapes: L layers, N experts. A file holds, not compressed:

    cka      [L, N, N] float32, similarity of pairs; nan where undefined
    shared   [L, N, N] int32, tokens that both experts of a pair were given; 0 on the diagonal
    cka_shared  [L, N, N] float32, similarity of pairs on the tokens that both were given; nan where
             they are too few. Files of earlier versions do not have it
    layers   [L] int64, their indices among the layers with experts
    tokens   int64, of the probe
    measure  name of the similarity measure

A file is on the disk before the event that names it is written. Nothing is unpickled, and reading
never uses more memory than the file has bytes, whatever its headers say.
"""

from __future__ import annotations

import contextlib
import re
import warnings
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_bytes
from simsmoe_cli.run.events import SimilarityLayer
from simsmoe_cli.run.folder import RunDir

MOST_BYTES = 1 << 28  # of a file: 64 layers of 700 experts
_NAME = re.compile(r"probes/step-(\d{7,18})\.npz")

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Matrices:
    """The matrices that a probe measured for the pairs of experts.

    Attributes:
        layers: L indices among the layers with experts.
        cka_LNN: similarity; nan where undefined.
        shared_LNN: fraction of the tokens that both experts of a pair were given; nan where
            unknown.
        cka_shared_LNN: similarity on the tokens that both were given; nan where undefined; None:
            not measured (earlier versions).
    """

    layers: tuple[int, ...]
    cka_LNN: Matrix
    shared_LNN: Matrix
    cka_shared_LNN: Matrix | None = None

    @property
    def nbytes(self) -> int:
        """Memory they take."""
        more = 0 if self.cka_shared_LNN is None else self.cka_shared_LNN.nbytes
        return self.cka_LNN.nbytes + self.shared_LNN.nbytes + more


def most_similar_pairs(cka_NN: Matrix, count: int) -> list[tuple[int, int, float]]:
    """The pairs with the highest similarity, (i, j, value) with i < j, highest first; those that
    are undefined are left out."""
    first, second = np.triu_indices(len(cka_NN), 1)
    values = cka_NN[first, second]
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:count]
    return [
        (int(first[i]), int(second[i]), float(values[i])) for i in order if np.isfinite(values[i])
    ]


def layer_summary(
    index: int, cka_NN: Matrix, cka_shared_NN: Matrix | None = None
) -> SimilarityLayer:
    """A layer's part of a similarity event: its index, the mean of its pairs and the highest, and
    the mean on shared tokens where that was measured."""
    layer: SimilarityLayer = {"layer": index}
    layer["mean"], _ = _mean_of_pairs(cka_NN)
    for first, second, value in most_similar_pairs(cka_NN, 1):
        layer["highest"], layer["pair"] = value, [first, second]
    if cka_shared_NN is not None:
        layer["shared_mean"], layer["shared_pairs"] = _mean_of_pairs(cka_shared_NN)
    return layer


def _mean_of_pairs(cka_NN: Matrix) -> tuple[float | None, int]:
    """The mean over the pairs where it is defined, and how many they are."""
    pairs = cka_NN[np.triu_indices(len(cka_NN), 1)]
    defined = pairs[np.isfinite(pairs)]
    return float(defined.mean()) if len(defined) else None, len(defined)


def write(
    run: RunDir,
    step: int,
    *,
    measure: str,
    tokens: int,
    cka_LNN: Matrix,
    shared_LNN: NDArray[np.int32],
    cka_shared_LNN: Matrix | None = None,
) -> str:
    """Write the file of a probe; returns its name for the event once it is on the disk.

    Args:
        run: the run folder.
        step: of the probe.
        measure, tokens, cka_LNN, shared_LNN, cka_shared_LNN: see the module; the layers are all
            there are.
    """
    arrays: dict[str, Any] = {
        "cka": _contiguous(cka_LNN),
        "shared": np.ascontiguousarray(shared_LNN, dtype=np.int32),
        "layers": np.arange(len(cka_LNN), dtype=np.int64),
        "tokens": np.int64(tokens),
        "measure": np.str_(measure),
    }
    if cka_shared_LNN is not None:
        arrays["cka_shared"] = _contiguous(cka_shared_LNN)
    run.probes.mkdir(parents=True, exist_ok=True)
    path = run.probes / f"step-{step:07d}.npz"
    with atomic.whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)
    return f"{run.probes.name}/{path.name}"


def discard_after(run: RunDir, step: int) -> None:
    """Delete the files of later steps and leftovers of killed processes, before a run is
    resumed."""
    atomic.clean(run.probes)
    if run.probes.is_dir():
        for path in run.probes.iterdir():
            named = _NAME.fullmatch(f"{run.probes.name}/{path.name}")
            if named and int(named[1]) > step:
                with contextlib.suppress(OSError):  # a later probe of this step says so
                    path.unlink()


def read(run: Path, name: str) -> Matrices:
    """The matrices of a probe.

    Args:
        run: path of the run folder.
        name: the file's name in the event.

    Raises:
        Unreadable: the file is not there, is damaged, too large or not of this run.
    """
    if _NAME.fullmatch(name) is None:
        raise Unreadable("is not what the file of a probe is called")
    path = run / name
    if path.is_symlink() or path.parent.is_symlink():
        raise Unreadable("is a symbolic link")
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise Unreadable("is not there") from None
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive, warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns of headers that were edited
            layers = _array(archive, "layers", np.dtype("<i8"), 1)
            cka_LNN = _array(archive, "cka", np.dtype("<f4"), 3)
            shared_LNN = _array(archive, "shared", np.dtype("<i4"), 3)
            tokens = int(_array(archive, "tokens", np.dtype("<i8"), 0))
            cka_shared_LNN = None
            if "cka_shared.npy" in archive.namelist():
                cka_shared_LNN = _finite(_array(archive, "cka_shared", np.dtype("<f4"), 3))
    # Python's reader of archives and NumPy's of headers raise many kinds at damaged ones.
    except Exception as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("is damaged") from None
    count, experts = len(layers), cka_LNN.shape[-1]
    if cka_LNN.shape != (count, experts, experts) or shared_LNN.shape != cka_LNN.shape:
        raise Unreadable("is damaged (its shapes do not fit together)")
    if cka_shared_LNN is not None and cka_shared_LNN.shape != cka_LNN.shape:
        raise Unreadable("is damaged (its shapes do not fit together)")
    wrong = (shared_LNN < 0) | (shared_LNN > tokens)
    shared = np.where(wrong, np.nan, shared_LNN / np.float32(max(1, tokens)))
    layers_L = tuple(layers.tolist())
    return Matrices(layers_L, _finite(cka_LNN), shared.astype(np.float32), cka_shared_LNN)


def of_schema_1(layers: list[dict[str, Any]]) -> Matrices | None:
    """The matrices of an event of schema 1, which held them as lists.

    Args:
        layers: [{layer, cka [N][N] (None: undefined), shared [N][N] (fractions)}].

    Returns:
        The layers with matrices of numbers of the same size as the first one; None if there are
        none.
    """
    numbers: list[int] = []
    found: list[tuple[Matrix, Matrix]] = []
    for layer in layers:
        cka_NN = _matrix(layer.get("cka"))
        if cka_NN is None or (found and cka_NN.shape != found[0][0].shape):
            continue
        shared_NN = _matrix(layer.get("shared"))
        if shared_NN is None or shared_NN.shape != cka_NN.shape:
            shared_NN = np.full_like(cka_NN, np.nan)
        numbers.append(layer["layer"])
        found.append((cka_NN, shared_NN))
    if not found:
        return None
    cka, shared = zip(*found, strict=True)
    return Matrices(tuple(numbers), np.stack(cka), np.stack(shared))


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], dimensions: int) -> Any:
    """An array of an archive that is not compressed, of this form."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise Unreadable("is damaged (it is compressed)")
    content = BytesIO(archive.read(member))
    version = np.lib.format.read_magic(content)
    shape, by_column, found = np.lib.format.read_array_header_1_0(content)
    if version != (1, 0) or by_column or found != dtype or len(shape) != dimensions:
        raise Unreadable(f"is damaged ('{name}' is not what it should be)")
    return np.frombuffer(content.read(), dtype).reshape(shape)


def _contiguous(values: Matrix) -> Matrix:
    return np.ascontiguousarray(values, dtype=np.float32)


def _matrix(value: Any) -> Matrix | None:
    """A square matrix of numbers and nulls; None for any other value."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(row, list) and len(row) == len(value) for row in value):
        return None
    try:
        return _finite(np.array(value, dtype=np.float64))
    except (ValueError, TypeError, OverflowError):
        return None


def _finite(values: NDArray[Any]) -> Matrix:
    """As float32; nan where it is not finite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    single[~np.isfinite(single)] = np.nan
    return single
