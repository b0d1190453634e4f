"""Downloads with pooch: tries mirrors in order and checks each against the known hash."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from simsmoe_cli.errors import DataError
from simsmoe_cli.files import atomic

CHUNK = 1 << 16
TIMEOUT_S = 30.0
LONGEST_NAME = 100
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# stage, bytes done, bytes in all (None: not known)
Progress = Callable[[str, int, int | None], None]


def is_url(text: str) -> bool:
    """Whether a source is to be downloaded."""
    return text.startswith(("http://", "https://"))


def url_name(url: str) -> str:
    """The file name at the end of a URL, made safe."""
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:
        name = ""
    plain = re.sub(r"[^\w .+-]+", "-", name).lstrip(".")
    return plain[-LONGEST_NAME:].lstrip(".") or "download"


class _Bar:
    """A progress bar in the form that pooch expects, which reports to a Progress."""

    def __init__(self, report: Progress):
        self.total = 0
        self._report, self._done = report, 0

    def update(self, amount: int) -> None:
        self._done += amount
        done = min(self._done, self.total) if self.total else self._done
        self._report("download", done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""


def fetch(
    urls: Sequence[str], into: Path, report: Progress, *, known_hash: str = "", hint: str
) -> Path:
    """Download from the first URL that works and has the right content.

    Args:
        urls: the same file at several hosts.
        into: the folder the file is put in, under the name it has at its first URL.
        report: told about progress.
        known_hash: "algorithm:hex"; empty when nothing is known of the file.
        hint: advice for the user if no URL works.

    Returns:
        The path of the file; UserError, naming what each URL answered, when there is none.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    answers: list[str] = []
    for url in urls:
        downloader: Any = pooch.HTTPDownloader(
            progressbar=_Bar(report), chunk_size=CHUNK, timeout=TIMEOUT_S
        )
        try:
            path = pooch.retrieve(
                url, known_hash or None, url_name(urls[0]), into, downloader=downloader
            )
        except requests.RequestException as error:
            answers.append(f"{url}: {_reason(error)}")
        except ValueError:
            answers.append(f"{url}: wrong {known_hash.partition(':')[0]} of what it sent")
        else:
            return Path(path)
    raise DataError("cannot download " + "; ".join(answers), hint=hint)


def fetch_once(
    name: str,
    urls: Sequence[str],
    known_hash: str,
    scratch: Path,
    downloads: Path,
    report: Progress,
) -> Path:
    """A file of the corpus or task `name` from its official host, downloaded once and kept."""
    kept = downloads / url_name(urls[0])
    if not holds(kept, known_hash):
        hint = (
            f"If you have the file, use: simsmoe prepare-data {name} --source PATH. "
            "pystdlib and pystdlib-packages need no network."
        )
        fresh = fetch(urls, scratch, report, known_hash=known_hash, hint=hint)
        downloads.mkdir(parents=True, exist_ok=True)
        atomic.move(fresh, kept)
    return kept


def _reason(error: Any) -> str:
    """One short phrase about a failed request."""
    import requests

    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.exceptions.InvalidURL):
        return "not a valid address"
    return f"{type(error).__name__}"


def holds(path: Path, known_hash: str) -> bool:
    """Whether a file is there and has this hash ("algorithm:hex")."""
    import pooch

    algorithm, _, expected = known_hash.partition(":")
    return path.is_file() and pooch.file_hash(str(path), alg=algorithm) == expected
