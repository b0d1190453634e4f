"""Every known corpus has its facts."""

from __future__ import annotations

from simsmoe_cli.data.corpora.facts import Corpus
from tests.data.corpora.small import SPLITS


def test_every_corpus_of_the_registry_has_its_facts() -> None:
    from simsmoe_cli.registry import CORPORA, load

    for name in CORPORA:
        facts: Corpus = load("corpora", name)
        assert facts.name == name
        assert all(url.endswith(".zip") for url in facts.urls)
        assert bool(facts.urls) == bool(facts.archive_hash) == bool(facts.members)
        splits = tuple(member.split for member in facts.members)
        assert splits == {"members": SPLITS, "bytes": ("",), "files": ()}[facts.split]
