"""Facts about the named classification tasks: their URLs, files, labels and sizes.

Row counts and hashes are those of the published files; `known_tasks.py` checks the files that are
read against them. Sources: Socher et al., EMNLP 2013 (the treebank's sentences; SST-5 keeps the
roots' five labels, the sentence-level SST-2 joins 0-1 and 3-4 and drops the neutral 2); Wang et al.
1804.07461 (GLUE's SST-2: phrases as well as sentences to train on, test labels withheld); Maas et
al., ACL 2011 (IMDB); Casanueva et al. 2003.04807 (BANKING77).

Some tasks are also distributed in other layouts than the official one; for those only the counts
are known. A new task is a row here and a line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from simsmoe_cli.data.tasks.parsers import Columns

TEXT_LABEL = Columns("text", "label")


@dataclass(frozen=True)
class TaskFile:
    """One file of a task, or one folder of a file for each text.

    Args:
        name: its name, without the ending of a compressed file.
        rows: labelled texts in it.
        sha256: of its content, decompressed; empty when not known.
        begins: its first bytes, by which a prefix of it is recognised.
        labelled: whether the labels are published.
    """

    name: str
    rows: int
    sha256: str = ""
    begins: bytes = b""
    labelled: bool = True


@dataclass(frozen=True)
class Layout:
    """An arrangement of a task's files on a disk.

    Args:
        name: its name in messages.
        kind: csv, tsv and json tables; trees; `folders`: SPLIT/LABEL/ID_RATING.txt.
        files: of each split: train, valid and test.
        labels: the published label of a row and the name of its class, "" for rows that are left
            out; empty when published labels are the names.
        columns: of a table.
        official: whether the task is published in this layout.
    """

    name: str
    kind: Literal["csv", "tsv", "json", "trees", "folders"]
    files: Mapping[str, TaskFile]
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    columns: Columns = TEXT_LABEL
    official: bool = True


@dataclass(frozen=True)
class Download:
    """A file to fetch: the same at several URLs, and its hash as "algorithm:hex"."""

    urls: tuple[str, ...]
    known_hash: str


@dataclass(frozen=True)
class TaskFacts:
    """One task.

    Args:
        name: its name in the registry.
        downloads: the archive, or the files; empty when nothing is downloaded.
        labels: names of the classes in order; empty: those of train, sorted.
        classes: how many there are; 0 when it depends on the machine.
        layouts: the official one first; empty for snippets of Python's standard library.
        balanced: whether every file has as many rows of each class.
        notes: what users should know of the published data.
    """

    name: str
    downloads: tuple[Download, ...]
    labels: tuple[str, ...]
    classes: int
    layouts: tuple[Layout, ...]
    balanced: bool = False
    notes: tuple[str, ...] = ()


POLARITY = ("negative", "positive")
FIVE = ("very negative", "negative", "neutral", "positive", "very positive")
BINARY_LABELS = dict(zip("01", POLARITY, strict=True))

SST2 = TaskFacts(
    name="sst2",
    downloads=(
        Download(
            ("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",),
            "md5:9f81648d4199384278b86e315dac217c",
        ),
    ),
    labels=POLARITY,
    classes=2,
    layouts=(
        Layout(
            "GLUE",
            "tsv",
            {
                "train": TaskFile(
                    "train.tsv",
                    67_349,
                    "48eac26399f8456935f81dd9e3a745c1430adb6c62e233ccfe22db4a0d15d1d1",
                    b"sentence\tlabel\nhide new secretions",
                ),
                "valid": TaskFile(
                    "dev.tsv",
                    872,
                    "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
                    b"sentence\tlabel\nit 's a charming and often",
                ),
                "test": TaskFile(
                    "test.tsv",
                    1_821,
                    "69a938605609b3e6663b4487918fe1565eb293734e6e520d0366d1d412fd2a13",
                    b"index\tsentence\n0\tuneasy mishmash",
                    labelled=False,
                ),
            },
            BINARY_LABELS,
            Columns("sentence", "label"),
        ),
    ),
    notes=(
        "train holds phrases of sentences as well as sentences, so validation drawn from it "
        "shares sentences with it",
    ),
)


def _trees(labels: Mapping[str, str]) -> Layout:
    """The official files of the treebank."""
    return Layout(
        "trees",
        "trees",
        {
            "train": TaskFile(
                "train.txt",
                8_544,
                "e2f3f41b0b1e6d4dddc0effe3bfc2d27ed8928079aa9a03d652311614fc5feb7",
                b"(3 (2 (2 The) (2 Rock)) (4 (3 (2 is)",
            ),
            "valid": TaskFile(
                "dev.txt",
                1_101,
                "0e9336aed6e4730e19f58d00a77b3f0297efdb755f7b5e598c98a05e3f97ea40",
                b"(3 (2 It) (4 (4 (2 's) (4 (3 (2 a) (4 (3 lovely)",
            ),
            "test": TaskFile(
                "test.txt",
                2_210,
                "6e54806dee95cf80cd918e7dfb3f6770f6df24bf826f289a4d1f709e1c8f6761",
                b"(2 (3 (3 Effective) (2 but)) (1 (1 too-tepid)",
            ),
        },
        labels,
    )


def _sentences(train: int, valid: int, test: int, labels: Mapping[str, str]) -> Layout:
    """The roots of the trees as a table, a common unofficial layout."""
    files = {
        "train": TaskFile("train.tsv", train),
        "valid": TaskFile("dev.tsv", valid),
        "test": TaskFile("test.tsv", test),
    }
    return Layout("sentences", "tsv", files, labels, Columns("sentence", "label"), official=False)


TREES = Download(
    ("https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",),
    "sha256:5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
)
FIVE_LABELS = dict(zip("01234", FIVE, strict=True))
WITHOUT_NEUTRAL = {
    "0": "negative",
    "1": "negative",
    "2": "",
    "3": "positive",
    "4": "positive",
}

SST2_TREES = TaskFacts(
    name="sst2-trees",
    downloads=(TREES,),
    labels=POLARITY,
    classes=2,
    layouts=(_trees(WITHOUT_NEUTRAL), _sentences(6_920, 872, 1_821, BINARY_LABELS)),
)

SST5 = TaskFacts(
    name="sst5",
    downloads=(TREES,),
    labels=FIVE,
    classes=5,
    layouts=(_trees(FIVE_LABELS), _sentences(8_544, 1_101, 2_210, FIVE_LABELS)),
)

IMDB = TaskFacts(
    name="imdb",
    downloads=(
        Download(
            ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
            "md5:7c2ac02c03563afcf9b574c7e56c153a",
        ),
    ),
    labels=POLARITY,
    classes=2,
    layouts=(
        Layout(
            "aclImdb",
            "folders",
            {"train": TaskFile("train", 25_000), "test": TaskFile("test", 25_000)},
            {"neg": "negative", "pos": "positive"},
        ),
        Layout(
            "JSON lines",
            "json",
            {"train": TaskFile("train.jsonl", 25_000), "test": TaskFile("test.jsonl", 25_000)},
            BINARY_LABELS,
            official=False,
        ),
    ),
    balanced=True,
)

BANKING77_URL = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/"
)
BANKING77_TRAIN = "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b"
BANKING77_TEST = "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d"

BANKING77 = TaskFacts(
    name="banking77",
    downloads=(
        Download((BANKING77_URL + "train.csv",), f"sha256:{BANKING77_TRAIN}"),
        Download((BANKING77_URL + "test.csv",), f"sha256:{BANKING77_TEST}"),
    ),
    labels=(),
    classes=77,
    layouts=(
        Layout(
            "CSV",
            "csv",
            {
                "train": TaskFile(
                    "train.csv",
                    10_003,
                    BANKING77_TRAIN,
                    b"text,category\r\nI am still waiting on my card?",
                ),
                "test": TaskFile(
                    "test.csv",
                    3_080,
                    BANKING77_TEST,
                    b"text,category\r\nHow do I locate my card?",
                ),
            },
            columns=Columns("text", "category"),
        ),
    ),
)

PYSTDLIB_PACKAGES = TaskFacts(
    name="pystdlib-packages",
    downloads=(),
    labels=(),
    classes=0,
    layouts=(),
    notes=("contents differ between Python versions; results name the version",),
)
