"""Similarity events that stay in the file, and layers read from them when someone looks.

A similarity event of 30 layers with 64 experts is 4 MB of text, and parsing it takes 20 times as
long as finding where its layers and their means stand.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from simsmoe_cli.monitor.state.layers import LayerSimilarity, defined, parse_layer
from simsmoe_cli.run.events import Event, NotAnEvent, number, parse_event, whole

CACHE_BYTES = 16 << 20
MARK = 256  # bytes of a line in which its kind is looked for
LONGEST_HEAD = 64 << 10  # bytes of a similarity event before its layers
MOST_LAYERS = 4096


@dataclass(frozen=True)
class StoredLayers:
    """The layers of a similarity event that were left in the file.

    Attributes:
        path: the file.
        spans: of each layer's number, where its JSON object begins in the file, and how many bytes
            from there hold it.
        means: mean similarity by layer; nan where undefined.
    """

    path: Path
    spans: dict[int, tuple[int, int]]
    means: dict[int, float]

    def read(self, layer: int) -> LayerSimilarity | None:
        """The layer; None where the file no longer holds it."""
        begin, length = self.spans[layer]
        try:
            with open(self.path, "rb") as file:
                file.seek(begin)
                text = file.read(length).decode()
            value, _ = json.JSONDecoder().raw_decode(text)
        except (OSError, ValueError, RecursionError):
            return None
        found = parse_layer(value)
        return found if found is not None and found.layer == layer else None


class LayerCache:
    """Layers read from files, the least recently used forgotten first."""

    def __init__(self, limit_bytes: int = CACHE_BYTES):
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._kept: OrderedDict[tuple[int, int], LayerSimilarity] = OrderedDict()

    def get(self, stored: StoredLayers, layer: int) -> LayerSimilarity | None:
        """The layer, read unless it is kept."""
        key = stored.spans[layer]
        found = self._kept.pop(key, None)
        if found is None:
            found = stored.read(layer)
            if found is None:
                return None
            self.bytes += found.cka.nbytes + found.shared.nbytes
        self._kept[key] = found
        while self.bytes > self.limit_bytes and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self.bytes -= old.cka.nbytes + old.shared.nbytes
        return found

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def stored_event(
    path: Path, block: bytes | bytearray, first: int, end: int, offset: int
) -> Event | None:
    """The similarity event of a line, with its layers left in the file as `StoredLayers`; None for
    any line that does not look like one as `rundir.EventLog` writes it, which must then be parsed.

    Args:
        path: the file.
        block: bytes of it, among them the line.
        first, end: where in them the line begins and ends, without its line end.
        offset: where in the file they begin.
    """
    if not looks_like_one(block, first, end) or not block.endswith(b"]}", first, end):
        return None
    at = block.find(b'"layers":[', first, first + LONGEST_HEAD)
    if at < 0:
        return None
    try:
        event = parse_event(block[first:at] + b'"layers":[]}')
    except NotAnEvent:
        return None
    if event["kind"] != "similarity" or not {"schema", "time"} <= event.keys():
        return None
    # In such a line, braces open layers only, and no number holds an m.
    layers = _found(block, b"{", b'{"layer":', at, end)
    means = _found(block, b"m", b'mean":', at, end)
    ends = [*layers[1:], end]
    if (
        len(layers) != len(means)
        or len(layers) > MOST_LAYERS
        or not all(layer < mean < end for layer, mean, end in zip(layers, means, ends, strict=True))
    ):
        return None
    try:
        numbers = [whole(_value_at(block, layer + len(b'{"layer":'))) for layer in layers]
        values = [defined(number(_value_at(block, mean + len(b'mean":')))) for mean in means]
    except ValueError:
        return None
    known = [found for found in numbers if found is not None]
    if len(set(known)) != len(layers):
        return None
    spans = {
        layer: (offset + begin, end - begin)
        for layer, begin, end in zip(known, layers, ends, strict=True)
    }
    stored = StoredLayers(path, spans, dict(zip(known, values, strict=True)))
    return cast(Event, {**event, "layers": stored})


def _found(block: bytes | bytearray, rare: bytes, key: bytes, first: int, end: int) -> list[int]:
    """Where the key stands, looked for by its first byte, which takes a quarter of the time."""
    places = []
    at = block.find(rare, first, end)
    while at >= 0:
        if block.startswith(key, at, end):
            places.append(at)
            if len(places) > MOST_LAYERS:
                break
        at = block.find(rare, at + 1, end)
    return places


def looks_like_one(block: bytes | bytearray, first: int, end: int) -> bool:
    """Whether a line that begins there may be a similarity event."""
    return block.find(b'"similarity"', first, min(end, first + MARK)) >= 0


def _value_at(block: bytes | bytearray, begin: int) -> Any:
    """The number or null that begins there."""
    return from_json(re.split(rb"[,}\]]", block[begin : begin + 64], maxsplit=1)[0])
