"""Configurations in YAML: nothing in the file is executed, and numbers are those of YAML 1.2 and of JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which YAML 1.1 takes for text, and refuses what JSON has not: aliases, by which a small
    file could become a value of any size.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value, which must stand where it is used."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*) are not read", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A table, whose names must differ."""
        table = super().construct_mapping(node, deep)
        if len(table) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a name is given twice", node.start_mark)
        return table


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def parse_yaml(data: bytes, name: str | Path) -> Any:
    """Parse YAML text that was read from the file `name`; an empty file is an empty table.

    Raises:
        ValueError: the text is not YAML; the message, of one line, names the file and the place.

    Example:
        >>> parse_yaml(b"train: {steps: 300}  # a remark", "mine.yaml")
        {'train': {'steps': 300}}
    """
    try:
        values = yaml.load(data, _Loader)
    except RecursionError:
        raise ValueError(f"{name} is no YAML file that can be read: it is nested too deeply") from None
    # Besides its own errors, numbers and dates that Python has not.
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name} is no YAML file: {' '.join(str(error).split())}") from None
    return {} if values is None else values
