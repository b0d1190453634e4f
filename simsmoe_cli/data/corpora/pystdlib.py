"""The corpus pystdlib: Python's standard library, which every machine with Python has.

It is every *.py file except tests, site-packages, and the two kinds of files in which an
installation describes its own machine (`_sysconfigdata*`, `config-*`).
"""

from __future__ import annotations

import os
import platform
import sysconfig
from pathlib import Path

from simsmoe_cli.data.corpora.parts import Part, Source, deal
from simsmoe_cli.data.io.locate import Located, walk
from simsmoe_cli.errors import DataError

NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def of_this_python(scratch: Path) -> Source:
    """The library of the running Python."""
    version = platform.python_version()
    library = Located(f"Python {version}", Path(sysconfig.get_path("stdlib")), scratch)
    source = Source(library, _files(library))
    source.python = version
    return source


def in_folder(located: Located) -> Source:
    """A folder that the user says is a standard library."""
    source = Source(located, _files(located), whole=False)
    source.warnings.append(
        f"{located.given} was taken for a standard library; its version is unknown"
    )
    return source


def _files(library: Located) -> list[Part]:
    """The files of a library, with their splits."""
    folder = library.path
    files = [path for path in walk(folder) if path.suffix == ".py" and _in_stdlib(path, folder)]
    files = [path for path in files if os.path.isfile(path) and path.stat().st_size]
    if not files:
        raise DataError(
            "no Python source there",
            where=library.given,
            hint="Name the standard library's folder with --source, or prepare other text.",
        )
    return deal(folder, files)


def _in_stdlib(path: Path, folder: Path) -> bool:
    *above, name = path.relative_to(folder).parts
    generated = name.startswith("_sysconfigdata") or any(p.startswith("config-") for p in above)
    return not generated and not NOT_STDLIB.intersection(above)
