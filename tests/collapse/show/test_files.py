"""The files of a report: they land whole, and what else is in the folder stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show import files
from simsmoe_cli.collapse.show.files import check_destination, parse_formats, write_report
from simsmoe_cli.errors import EXIT_USAGE, UserError
from tests.collapse.reports import report


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, only put into their places."""
    monkeypatch.setattr(files, "figure_file", lambda drawing, *how: drawing.name.encode())


@pytest.mark.usefixtures("quick")
def test_only_the_formats_asked_for(tmp_path: Path) -> None:
    made = report(layers=1)
    paths = write_report(made, tmp_path / "a", ("svg",))
    assert {path.parent.name for path in paths} == {"figures"}
    assert {path.suffix for path in paths} == {".svg"}
    assert write_report(made, tmp_path / "b", ("json",)) == [tmp_path / "b" / "report.json"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["report.json"]


@pytest.mark.usefixtures("quick")
def test_an_earlier_report_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(report(layers=3), out, ("svg", "json"))
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "mine.svg").write_text("mine")
    write_report(report(layers=1), out, ("svg", "json"))
    assert len(Report.read(out / "report.json").main.layers) == 1
    names = {path.name for path in (out / "figures").iterdir()}
    assert "cka-layer-0.svg" in names
    assert "cka-layer-1.svg" not in names
    assert "mine.svg" in names
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("quick")
def test_a_folder_in_a_place_that_cannot_be_written_is_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed beside it, so its files are replaced one by one."""
    out = tmp_path / "sealed" / "out"
    write_report(report(layers=3), out, ("json",))
    inode = out.stat().st_ino
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "sealed" and real(path, mode)
    )
    write_report(report(layers=1), out, ("json",))
    assert len(Report.read(out / "report.json").main.layers) == 1
    assert out.stat().st_ino == inode


@pytest.mark.usefixtures("quick")
def test_a_report_that_fails_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_report(report(layers=1), out, ("json",))
    before = (out / "report.json").read_bytes()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".svg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(report("another", layers=1), out, ("json", "svg"))
    assert (out / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["report.json"]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out: not a folder"):
        write_report(report(layers=1), tmp_path / "out", ("json",))
    assert (tmp_path / "out").read_text() == "a file"
    with pytest.raises(UserError, match="Choose another --out"):
        write_report(report(layers=1), tmp_path / "out" / "below", ("json",))


def test_a_destination_is_tried_before_measuring(tmp_path: Path) -> None:
    check_destination(tmp_path / "new/report")
    assert not list(tmp_path.iterdir())
    if Path("/proc/self").exists():  # nobody makes a folder there, root neither
        with pytest.raises(UserError, match="cannot write here"):
            check_destination(Path("/proc/report"))


def test_formats() -> None:
    assert parse_formats("png, HTML,png") == ("html", "png")
    with pytest.raises(UserError, match=r"unknown format 'svgg'. Did you mean 'svg'\?") as caught:
        parse_formats("html,svgg")
    assert caught.value.code == EXIT_USAGE
    with pytest.raises(UserError, match="no format given"):
        parse_formats(" ,")
