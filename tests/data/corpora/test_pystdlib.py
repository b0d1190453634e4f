"""The corpus pystdlib: which files of Python it holds."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

from simsmoe_cli.data.corpora.facts import PYSTDLIB
from simsmoe_cli.data.corpora.sources import resolve


def test_pystdlib_is_the_library_without_tests_and_packages(tmp_path: Path) -> None:
    source = resolve(PYSTDLIB, "", tmp_path, tmp_path, lambda stage, done, total: None)
    names = {part.name for part in source.parts}
    assert {"os.py", "json/decoder.py", "email/mime/text.py"} <= names
    assert source.python == platform.python_version()
    assert {part.split for part in source.parts} == {"train", "valid", "test"}
    for name in names:
        assert name.endswith(".py")
        above = name.split("/")[:-1]
        assert not {"test", "tests", "idle_test", "site-packages", "dist-packages"} & set(above)
    root = Path(sysconfig.get_path("stdlib"))
    assert all(part.path == root / part.name for part in source.parts)
