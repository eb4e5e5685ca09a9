"""Documents from outside: YAML or JSON files as plain data, with the line of every field, within limits.

A value is what `kubectl` would send to the API server for it (`rltrain_api.yaml_scalars`), so that what is judged here
is what would be applied. A file that cannot be used gives one clear line, whatever is in it: `UnusableInput`. This
module must not know what a job is.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rltrain_api.yaml_nodes import MAX_CHARACTERS, Node, UnusableInput, compose

__all__ = ["MAX_BYTES", "STDIN", "SourceDocument", "UnusableInput", "parse_documents", "read_documents", "read_text"]

STDIN = "-"
MAX_BYTES = MAX_CHARACTERS

_INDEX = re.compile(r"\[(\d+)\]")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One document of a file: plain data, and the line in which each part of it is written.

    `data` shares nothing with other documents, and nothing within itself: aliases are written out as copies.
    """

    source: str
    data: dict[str, Any]
    _node: Node = field(repr=False, compare=False)

    def line_of(self, path: str = "") -> int:
        """The line, from 1, of the key at a dotted path (`spec.storage.data[0].name`, as in `FieldError.path`).

        Where the path does not exist, the line of the nearest part above it; in the end the document's first.
        """
        node, line, rest = self._node, self._node.line, path
        while rest and (step := _step(node, rest)) is not None:
            line, node, rest = step
        return line

    def place(self, path: str = "") -> str:
        """File and line of a path, as compilers write them and editors open them: `job.yaml:12`."""
        return f"{self.source}:{self.line_of(path)}"


def read_documents(path: str) -> list[SourceDocument]:
    """The documents of a file, `-` for standard input; never an empty list. Lists (`kind: List`) are taken apart.

    Raises:
        UnusableInput: nothing can be done with the file; the message names it.
    """
    source, text = read_text(path)
    return parse_documents(text, source)


def read_text(path: str) -> tuple[str, str]:
    """What to call a file (`-`: standard input) in messages, and its text.

    Raises:
        UnusableInput: it cannot be read, is too large for a manifest, or is no text; the message names it.
    """
    source = "<stdin>" if path == STDIN else path
    try:
        content = sys.stdin.buffer.read(MAX_BYTES + 1) if path == STDIN else _file_content(Path(path))
    except OSError as error:
        raise UnusableInput(source, f"cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise UnusableInput(source, _too_large(f"more than {MAX_BYTES / 1024**2:.0f} MiB"))
    return source, _decoded(content, source)


def parse_documents(text: str, source: str) -> list[SourceDocument]:
    """The documents of a text; never an empty list. Each is a map; those without content are left out.

    Args:
        text: YAML, or JSON (which YAML contains).
        source: What to call it in messages.

    Raises:
        UnusableInput: the text is not YAML, or goes beyond the limits; the message has the line.
    """
    documents = [
        SourceDocument(source, node.plain(), node)
        for root in compose(text, source)
        for node in _flattened(root, source)
    ]
    if not documents:
        what = "holds no document" if text.strip() else "is empty"
        raise UnusableInput(source, f"{what}; it needs one with apiVersion, kind, metadata and spec")
    return documents


def _file_content(path: Path) -> bytes:
    """The bytes of a file; of a pipe or device, which do not tell their size, one more than MAX_BYTES at most."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnusableInput(str(path), f"is a directory; name the files in it, such as {path / '*.yaml'}")
    if status.st_size > MAX_BYTES:
        raise UnusableInput(str(path), _too_large(f"{status.st_size / 1024**2:.1f} MiB"))
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _too_large(size: str) -> str:
    limit = f"{MAX_BYTES / 1024**2:.0f} MiB"
    return f"is too large: {size}, and the API server takes at most {limit} at once; is this a manifest?"


def _decoded(content: bytes, source: str) -> str:
    mark = next((mark for mark in _BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    encoding = _BYTE_ORDER_MARKS.get(mark, "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"the byte 0x{content[error.start]:02x} at offset {error.start} is no {encoding.upper()}"
        raise UnusableInput(source, f"is not a text file: {found}") from error


def _flattened(root: Node, source: str) -> Iterator[Node]:
    """The document itself; of `kind: List` (and RLTrainingJobList, …) its items, as `kubectl` takes them apart."""
    if root.entries is None:
        what = "is a list" if root.items is not None else "is only text"
        raise UnusableInput(source, f"{what}; a document is a map with apiVersion, kind, metadata and spec", root.line)
    kind, items = root.entries.get("kind"), root.entries.get("items")
    if kind is None or items is None or items[1].items is None or not str(kind[1].scalar).endswith("List"):
        yield root
        return
    for item in items[1].items:
        yield from _flattened(item, source)


def _step(node: Node, path: str) -> tuple[int, Node, str] | None:
    """One step down: line and node of the path's first part, and the rest of the path. Keys may hold dots."""
    if node.items is not None:
        index = _INDEX.match(path)
        if index is None or int(index[1]) >= len(node.items):
            return None
        item = node.items[int(index[1])]
        return item.line, item, path[index.end() :].removeprefix(".")
    entries = node.entries or {}
    key = max((key for key in entries if _begins(path, key)), key=len, default=None)
    if key is None:
        return None
    line, value = entries[key]
    return line, value, path[len(key) :].removeprefix(".")


def _begins(path: str, key: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))
