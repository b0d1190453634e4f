"""The YAML that recipes are written in.

It is YAML 1.2's core schema. Unlike in PyYAML's default, 1e-3 is a number, on/off/yes/no are text,
and there are no dates or base-60 numbers. A key given twice is an error, and so are anchors,
aliases and tags, a second document, and deep nesting.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from simsmoe_cli.errors import printable

DEEPEST = 12  # levels of lists and mappings
MOST_DIGITS = 100

CORE_SCHEMA = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9][0-9_]*",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class FaultyYaml(Exception):
    """A text that is not YAML as a recipe may use it.

    Attributes:
        what: the problem.
        line: where, from 1; 0 where unknown.
    """

    def __init__(self, what: str, line: int = 0):
        super().__init__(what)
        self.what = what
        self.line = line


class _Loader(yaml.SafeLoader):
    """Core schema without anchors and tags; keys given twice are listed in `twice` with lines."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def __init__(self, text: str):
        super().__init__(text)
        self.twice: list[tuple[str, int]] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise FaultyYaml("recipes have no anchors", line)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise FaultyYaml(f"recipes have no tags, such as {printable(tag)}", line)
        if isinstance(event, yaml.ScalarEvent) and any(map(_is_surrogate, event.value)):
            raise FaultyYaml("an escape that is not a character", line)
        self._depth += 1
        if self._depth > DEEPEST:
            raise FaultyYaml("nested too deeply", line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FaultyYaml("a key must be a name", key.start_mark.line + 1)
            if key.value in mapping:
                self.twice.append((key.value, key.start_mark.line + 1))
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "")
        if len(digits) > MOST_DIGITS:
            line = node.start_mark.line + 1
            raise FaultyYaml(f"a whole number of {len(digits):,} digits is too large", line)
        return int(digits)


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def read_yaml(text: str) -> tuple[Any, list[tuple[str, int]]]:
    """The value of a YAML text, and its keys that are given twice with their lines.

    Raises:
        FaultyYaml: the text is not YAML, or not of this dialect.
    """
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.twice
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = text[error.position : error.position + 1]
        raise FaultyYaml(f"the character {character!a} is not allowed", line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        what = error.problem or error.context or "it cannot be read"
        if what == "but found another document":
            what = "a recipe is one document, and this is another"
        raise FaultyYaml(what, mark.line + 1 if mark else 0) from None
    except (ValueError, OverflowError):  # of an escape past the last character
        raise FaultyYaml("an escape that is not a character", loader.line + 1) from None


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else; lists stay on one line."""

    def represent_flow_list(self, items: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)

    def represent_text(self, text: str) -> yaml.Node:
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern in CORE_SCHEMA.items():
    for _dialect in (_Loader, _Dumper):
        _dialect.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)
_Dumper.add_representer(list, _Dumper.represent_flow_list)
_Dumper.add_representer(str, _Dumper.represent_text)


def write_yaml(data: Any) -> str:
    """A value as YAML that `read_yaml` and other parsers read back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
