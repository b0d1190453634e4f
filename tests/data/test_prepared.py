"""What corpora and tasks share: a manifest that vouches for a folder, and how a folder is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.data.prepared import (
    SCHEMA,
    Facts,
    FileInfo,
    Prepared,
    kept,
    manifest_text,
    split_info,
)
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError

SONGS = Prepared("song", "song.json", ("hymn", "ballad"), own="FILE")


class Song(Facts):
    """A manifest of these tests."""

    schema_version: int = SCHEMA
    verses: int


@pytest.fixture
def song(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "song.json").write_text(manifest_text(Song(verses=3)))
    return folder


def damage(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        SONGS.read_manifest(folder, Song)
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(folder))
    return caught.value.what


def test_a_manifest_is_read_as_it_was_written(song: Path) -> None:
    assert SONGS.read_manifest(song, Song) == Song(verses=3)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"verses": 3', '"verses": 4', "was changed"),
        (f'"schema_version": {SCHEMA}', '"schema_version": 9', f"has schema 9, not {SCHEMA}"),
        ("{", "", "is not JSON"),
    ],
)
def test_a_changed_manifest_is_refused(song: Path, before: str, after: str, said: str) -> None:
    text = (song / "song.json").read_text()
    (song / "song.json").write_text(text.replace(before, after, 1))
    assert f"the prepared song is damaged: song.json {said}" in damage(song)


def test_a_manifest_of_schema_1_needs_no_checksum_but_must_fit(song: Path) -> None:
    (song / "song.json").write_text(json.dumps({"schema_version": 1, "verses": 3}))
    assert SONGS.read_manifest(song, Song).verses == 3
    (song / "song.json").write_text(json.dumps({"schema_version": 1, "verses": "many"}))
    assert "verses" in damage(song)


def test_a_folder_without_a_manifest_is_not_prepared(tmp_path: Path) -> None:
    assert damage(tmp_path) == "no prepared song (no manifest)"
    assert damage(tmp_path / "nowhere") == "no prepared song"


def test_files_must_have_their_sizes(song: Path) -> None:
    info = FileInfo(file="a.txt", size=3, sha256="0" * 64)
    with pytest.raises(UserError, match=r"a\.txt is missing, the manifest says 3"):
        SONGS.require_sizes(song, [info])
    (song / "a.txt").write_text("four")
    with pytest.raises(UserError, match=r"a\.txt has 4 bytes, the manifest says 3"):
        SONGS.require_sizes(song, [info])
    (song / "a.txt").write_text("abc")
    SONGS.require_sizes(song, [info])


def test_what_is_there_is_kept_unless_forced_and_never_if_it_is_something_else(
    song: Path, tmp_path: Path
) -> None:
    assert SONGS.is_kept(song, force=False)
    assert not SONGS.is_kept(song, force=True)
    assert not SONGS.is_kept(tmp_path / "new", force=False)
    (tmp_path / "letter").write_text("dear")
    for force in (True, False):
        with pytest.raises(UserError, match="is not a prepared song, so it is left alone"):
            SONGS.is_kept(tmp_path / "letter", force=force)


def test_a_folder_is_found_by_name_or_path_and_a_wrong_name_says_what_to_do(song: Path) -> None:
    assert SONGS.find("mine", song.parent) == song
    assert SONGS.find(song, song.parent / "elsewhere") == song
    for name, said in (
        ("mime", "Did you mean 'mine'? To prepare it: simsmoe prepare-data FILE. Prepared: mine."),
        ("balad", "To prepare it: simsmoe prepare-data ballad. Prepared: mine."),
    ):
        with pytest.raises(UserError, match=f"song '{name}' is not prepared") as caught:
            SONGS.find(name, song.parent)
        assert caught.value.hint == said


def test_foreign_text_is_kept_short_and_printable() -> None:
    assert kept("a\x1bb") == "a\\x1bb"
    assert len(kept("x" * 100_000)) < 5_000


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    assert split_info({"train": 1}, "train", tmp_path) == 1
    with pytest.raises(UserError, match=r"no split 'trian'\. Splits: train, test") as caught:
        split_info({"train": 1, "test": 2}, "trian", tmp_path)
    assert caught.value.code == EXIT_USAGE
