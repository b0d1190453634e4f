"""Facts about the named corpora: their URLs, files and splits.

Sizes, hashes and line counts are those of the published files; `read_source.py` checks the files
that are read against them. Sources: Mahoney, Large Text Compression Benchmark (enwik8, text8);
Merity et al. 1609.07843 (WikiText). The vocabulary of a corpus is that of its default tokenizer,
taken from the whole corpus, as published work does: 205 bytes, 27 bytes, 33,278 and 267,735 words
with `<unk>` and `<eos>`.

A new corpus is a row here and a line in `registry.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Member:
    """One file of a corpus.

    Args:
        names: its file names, the official one first.
        split: the split it is; empty for a file that holds the whole corpus.
        size: bytes; 0 when not known.
        sha256: of its bytes; empty when not known.
        lines: line ends in it; 0 when not known.
        begins: its first bytes, with which a prefix of the file is recognised.
    """

    names: tuple[str, ...]
    split: str = ""
    size: int = 0
    sha256: str = ""
    lines: int = 0
    begins: bytes = b""


@dataclass(frozen=True)
class Corpus:
    """One corpus.

    Args:
        name: its name in the registry.
        urls: the archive, official host first, then mirrors; empty when nothing is downloaded.
        archive_hash: of that archive, as "algorithm:hex".
        members: the files that make it up.
        split: `bytes` cuts it at 90 and 95 % of its bytes exactly; `members`: each file is a
            split; `files`: files are dealt to splits by a fixed hash of their path.
        tokenizer: used when none is asked for.
        vocab_size: of that tokenizer; None when it depends on the machine (at most 256).
    """

    name: str
    urls: tuple[str, ...]
    archive_hash: str
    members: tuple[Member, ...]
    split: Literal["bytes", "members", "files"]
    tokenizer: str
    vocab_size: int | None

    @property
    def size(self) -> int:
        """Bytes of the whole corpus, 0 when not known of every member."""
        sizes = [member.size for member in self.members]
        return sum(sizes) if sizes and all(sizes) else 0


PYSTDLIB = Corpus(
    name="pystdlib",
    urls=(),
    archive_hash="",
    members=(),
    split="files",
    tokenizer="bytes",
    vocab_size=None,
)

ENWIK8 = Corpus(
    name="enwik8",
    urls=("http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
    archive_hash="sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    members=(
        Member(
            names=("enwik8",),
            size=100_000_000,
            sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            begins=b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/"',
        ),
    ),
    split="bytes",
    tokenizer="bytes",
    vocab_size=205,
)

TEXT8 = Corpus(
    name="text8",
    urls=("http://mattmahoney.net/dc/text8.zip",),
    archive_hash="sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    members=(
        Member(
            names=("text8",),
            size=100_000_000,
            sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            begins=b" anarchism originated as a term of abuse",
        ),
    ),
    split="bytes",
    tokenizer="bytes",
    vocab_size=27,
)


def _wikitext(train_lines: int) -> tuple[Member, ...]:
    """The three files of a WikiText corpus; both corpora share validation and test."""

    def names(split: str) -> tuple[str, ...]:
        return (f"wiki.{split}.tokens", f"{split}.tokens", f"{split}.txt")

    return (
        Member(names=names("train"), split="train", lines=train_lines),
        Member(
            names=names("valid"),
            split="valid",
            size=1_121_681,
            sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            lines=3_760,
        ),
        Member(
            names=names("test"),
            split="test",
            size=1_256_449,
            sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            lines=4_358,
        ),
    )


WIKITEXT2 = Corpus(
    name="wikitext-2",
    urls=("https://wikitext.smerity.com/wikitext-2-v1.zip",),
    archive_hash="md5:542ccefacc6c27f945fb54453812b3cd",
    members=_wikitext(train_lines=36_718),
    split="members",
    tokenizer="words",
    vocab_size=33_278,
)

WIKITEXT103 = Corpus(
    name="wikitext-103",
    urls=("https://wikitext.smerity.com/wikitext-103-v1.zip",),
    archive_hash="md5:9ddaacaf6af0710eda8c456decff7832",
    members=_wikitext(train_lines=1_801_350),
    split="members",
    tokenizer="words",
    vocab_size=267_735,
)
