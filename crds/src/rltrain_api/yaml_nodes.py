"""YAML text as nodes that know their line, made from libyaml's events within limits.

Nothing in a text can make this slow or large: values, depth and the size after aliases are bounded, and the events come
one by one, so the work ends where a limit is passed. Where kubectl guesses, this asks: a key that is set twice, a key
that is no text, and tags beyond YAML's own scalars are errors. Must not know about files or jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from rltrain_api.yaml_scalars import scalar_value

# What the API server accepts as one request; etcd stores half of it.
MAX_CHARACTERS = 3 * 1024 * 1024
# The whole configuration tree has some 300.
MAX_VALUES = 100_000
MAX_DEPTH = 64

_Loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_Event = Any  # of yaml.events; their stubs have marks and anchors that may be missing, which these never are
# What YAML forbids; listed, because the opposite takes ten times longer to compile.
_NOT_PRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_TAG_PREFIX = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "null": (type(None),),
    "timestamp": (str,),
}
_SHOWN_LENGTH = 60

# What to do about libyaml's complaints, by a part of them.
_REMEDIES: tuple[tuple[str, str], ...] = (
    ("mapping values are not allowed", "indent it like its neighbours, or put a value that holds ': ' in quotes"),
    ("did not find expected key", "indent it like its neighbours"),
    ("did not find expected '-'", "indent it like its neighbours, or begin it with '- '"),
    ("block sequence entries are not allowed", "begin the list on a line of its own, below its key"),
    ("could not find expected ':'", "write 'key: value', and indent text that goes on"),
    ("did not find expected ',' or", "close the bracket, or put ',' between its entries"),
    ("unexpected end of stream", "close the quotation mark"),
    ("cannot start any token", "put the value in quotes"),
    ("escape c", "double the backslash, or use single quotation marks"),
    ("alphabetic or numeric character", "put a value that begins with '*' or '&' in quotes"),
)
# What was opened and never closed: the line where it was opened helps, the one where the text ends does not.
_OPENED = ("quoted scalar", "simple key", "flow ")


class UnusableInput(ValueError):  # noqa: N818 - a state of the input, named as such
    """A text that cannot be read as documents: one line that says where, why and what to do.

    Args:
        source: Name of the file, as people know it.
        cause: What is wrong and what to do.
        line: Where in the file, counted from 1; None when it concerns the whole file.
    """

    def __init__(self, source: str, cause: str, line: int | None = None) -> None:
        super().__init__(f"{source}: {cause}" if line is None else f"{source}:{line}: {cause}")
        self.source = source
        self.cause = cause
        self.line = line


@dataclass(slots=True)
class Node:
    """One value of the text: a scalar, a map or a list. A node that aliases name stands in several places at once.

    `characters` (of scalars), `values` and `height` (0 for a scalar) count the node and all below it, aliases written
    out.
    """

    line: int
    scalar: Any = None
    entries: dict[str, tuple[int, Node]] | None = None  # of a map: key -> (line of the key, value)
    items: list[Node] | None = None  # of a list
    characters: int = 0
    values: int = 1
    height: int = 0

    def plain(self) -> Any:
        """The value as plain data; aliases become copies."""
        if self.entries is not None:
            return {key: value.plain() for key, (_, value) in self.entries.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.scalar


def compose(text: str, source: str) -> Iterator[Node]:
    """The root of each document of the text that is not null.

    Raises:
        UnusableInput: the text is not YAML or JSON, or goes beyond the limits.
    """
    bad = _NOT_PRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise UnusableInput(source, f"is not a text file: it holds the control character U+{ord(bad[0]):04X}", line)
    return _Composer(text, source).documents()


class _Composer:
    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._loader = _Loader(text)
        self._anchors: dict[str, Node] = {}
        self._values = 0
        self._characters = 0

    def documents(self) -> Iterator[Node]:
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                root = self._node(self._next(), 1)
                if root.entries is not None or root.items is not None or root.scalar is not None:
                    yield root

    def _next(self) -> _Event:
        try:
            return self._loader.get_event()
        except yaml.MarkedYAMLError as error:
            raise self._not_yaml(error) from error
        except yaml.YAMLError as error:
            raise UnusableInput(self._source, f"is not YAML: {' '.join(str(error).split())}") from error

    def _node(self, event: _Event, depth: int) -> Node:
        line: int = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(str(event.anchor), line, depth)
        self._spend(1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0, line)
        if depth > MAX_DEPTH:
            self._fail(f"nests deeper than {MAX_DEPTH} levels; is this a manifest?", line)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(line, self._scalar(event, line), characters=len(event.value))
        else:
            if event.tag not in (None, "!", f"{_TAG_PREFIX}map", f"{_TAG_PREFIX}seq"):
                self._fail(_tag_refused(event.tag), line)
            is_map = isinstance(event, yaml.MappingStartEvent)
            node = self._map(line, depth) if is_map else self._list(line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, anchor: str, line: int, depth: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            self._fail(f"*{anchor} stands for &{anchor}, which does not come before it", line)
        self._spend(node.values, node.characters, line)
        if depth + node.height > MAX_DEPTH:
            self._fail(f"nests deeper than {MAX_DEPTH} levels; is this a manifest?", line)
        return node

    def _spend(self, values: int, characters: int, line: int) -> None:
        """Count what the documents hold, aliases written out."""
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES:
            self._fail(f"there are more than {MAX_VALUES:,} values up to here{self._with_aliases()}", line)
        if self._characters > MAX_CHARACTERS:
            self._fail(f"there are more than {MAX_CHARACTERS:,} characters up to here{self._with_aliases()}", line)

    def _with_aliases(self) -> str:
        return ", aliases (*name) written out; is this a manifest?" if self._anchors else "; is this a manifest?"

    def _map(self, line: int, depth: int) -> Node:
        entries: dict[str, tuple[int, Node]] = {}
        merged: dict[str, tuple[int, Node]] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                for source in self._merge_sources(self._node(self._next(), depth + 1), key_line):
                    for name, entry in source.items():
                        merged.setdefault(name, entry)
                continue
            key = self._key(event, key_line)
            if key in entries:
                self._fail(f"{_shown(key)} is set a second time, first in line {entries[key][0]}; keep one", key_line)
            entries[key] = (key_line, self._node(self._next(), depth + 1))
        entries = {**merged, **entries}
        node = Node(line, entries=entries)
        for _, value in entries.values():
            _add(node, value)
        return node

    def _list(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        node = Node(line, items=items)
        for item in items:
            _add(node, item)
        return node

    def _merge_sources(self, node: Node, line: int) -> list[dict[str, tuple[int, Node]]]:
        sources = [node] if node.items is None else node.items
        entries = [source.entries for source in sources if source.entries is not None]
        if len(entries) < len(sources):
            self._fail("<< merges maps, and this is none; name a map by its alias: <<: *name", line)
        return entries

    def _key(self, event: _Event, line: int) -> str:
        if isinstance(event, yaml.AliasEvent):
            self._fail(f"*{event.anchor} is an alias where a key should be; write the key out", line)
        if not isinstance(event, yaml.ScalarEvent):
            if "{{" in self._line(line):
                self._fail("{{ }} looks like a template; render it first, such as with `helm template`", line)
            self._fail("a key must be text, and this is a map or a list", line)
        value = self._scalar(event, line)
        if not isinstance(value, str):
            meaning = "null" if value is None else str(value).lower() if isinstance(value, bool) else "a number"
            written = event.value or "~"
            self._fail(f'the key {written} means {meaning}, and a key must be text; write "{written}" in quotes', line)
        return value

    def _scalar(self, event: _Event, line: int) -> Any:
        if event.tag in (None, "!", f"{_TAG_PREFIX}str"):
            if not event.implicit[0] or event.tag is not None:
                return event.value
            return self._resolved(event.value, line)
        name = event.tag.removeprefix(_TAG_PREFIX)
        if name == event.tag or name not in _SCALAR_TAGS:
            self._fail(_tag_refused(event.tag), line)
        value = self._resolved(event.value, line)
        if not isinstance(value, _SCALAR_TAGS[name]):
            self._fail(f"{_shown(event.value)} is no {name}, as its tag says; remove the tag !!{name}", line)
        return value

    def _resolved(self, text: str, line: int) -> Any:
        try:
            return scalar_value(text)
        except ValueError as error:
            self._fail(str(error), line)

    def _line(self, number: int) -> str:
        lines = self._text.splitlines()
        return lines[number - 1] if number <= len(lines) else ""

    def _fail(self, cause: str, line: int) -> NoReturn:
        raise UnusableInput(self._source, cause, line)

    def _not_yaml(self, error: yaml.MarkedYAMLError) -> UnusableInput:
        problem = str(error.problem or error.context or "it is not YAML")
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        text = self._line(line)
        if "\t" in text[: len(text) - len(text.lstrip())]:
            return UnusableInput(self._source, "is indented with a tab; YAML is indented with spaces", line)
        begun = error.context_mark.line + 1 if error.context_mark is not None else line
        remedy = next(
            (remedy for part, remedy in _REMEDIES if part in problem), "check quotation marks and indentation"
        )
        if "{{" in text or "{{" in self._line(begun):
            remedy = "{{ }} looks like a template: render it first, such as with `helm template`"
        if begun == line or not error.context:
            return UnusableInput(self._source, f"is not YAML: {problem}; {remedy}", line)
        if any(part in error.context for part in _OPENED):
            return UnusableInput(self._source, f"is not YAML: {problem} up to line {line}; {remedy}", begun)
        where = f"{error.context} that begins in line {begun}"
        return UnusableInput(self._source, f"is not YAML: {problem}, {where}; {remedy}", line)


def _add(node: Node, child: Node) -> None:
    """Count a child into its parent."""
    node.characters += child.characters
    node.values += child.values
    node.height = max(node.height, child.height + 1)


def _tag_refused(tag: str) -> str:
    shown = tag.replace(_TAG_PREFIX, "!!", 1)
    return f"the tag {_shown(shown)} is not for Kubernetes, which takes plain data; remove it"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…")
