"""Documents from outside: values as kubectl sends them, lines of fields, limits, and one clear line for the rest."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from rltrain_api.reading import MAX_BYTES, SourceDocument, UnusableInput, parse_documents, read_documents
from rltrain_api.yaml_nodes import MAX_DEPTH, MAX_VALUES
from rltrain_api.yaml_scalars import scalar_value

JOB = """\
apiVersion: rltrain.io/v1alpha1
kind: RLTrainingJob
metadata:
  name: one
spec:
  config:
    trainer:
      epochs: 2
      logger: console
  storage:
    data:
      - name: data
        mountPath: /data
      - {name: more, mountPath: /more}
  pools:
    head:
      nodeSelector:
        example.com/kind.of: large
"""


def only(text: str) -> SourceDocument:
    """The one document of a text."""
    (document,) = parse_documents(text, "job.yaml")
    return document


# The value that kubectl 1.32 printed for each (`kubectl label --local -f FILE a=b -o json`).
KUBECTL_VALUES: dict[str, object] = {
    "1e-6": 1e-6,
    "1E6": 1000000,
    "1.5e3": 1500,
    "1.e5": 100000,
    "+.5": 0.5,
    "-.5": -0.5,
    "5.": 5,
    "1.0": 1,
    "-0.0": 0,
    "123456789.125": 123456789.125,
    "017": 15,
    "0o17": 15,
    "-017": -15,
    "0x1F": 31,
    "+0x10": 16,
    "0b101": 5,
    "08": 8,
    "0o8": "0o8",
    "0b2": "0b2",
    "0x": "0x",
    "1_000": 1000,
    "1_000.5": 1000.5,
    "_1": "_1",
    "1:30": "1:30",
    "190:20:30": "190:20:30",
    "1.2.3": "1.2.3",
    ".e5": ".e5",
    "1e": "1e",
    "-": "-",
    ".": ".",
    "1e400": "1e400",
    "9223372036854775807": 2**63 - 1,
    "9223372036854775808": float(2**63),
    "99999999999999999999999999": 1e26,
    "yes": True,
    "On": True,
    "y": True,
    "no": False,
    "OFF": False,
    "N": False,
    "true": True,
    "yEs": "yEs",
    "null": None,
    "~": None,
    "": None,
    "NaN": "NaN",
    "inf": "inf",
    "2026-01-31": "2026-01-31",
    "2026-01-31T12:00:00Z": "2026-01-31T12:00:00Z",
    "=": "=",
}


@pytest.mark.parametrize("text", KUBECTL_VALUES)
def test_unquoted_scalars_mean_what_they_mean_to_kubectl(text: str) -> None:
    value = scalar_value(text)
    assert value == KUBECTL_VALUES[text]
    assert type(value) is type(KUBECTL_VALUES[text])


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "+.Inf"])
def test_numbers_that_json_cannot_say_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        scalar_value(text)


PLAIN_DATA: dict[str, tuple[str, object]] = {
    "block and flow": ("a: [1, {b: c}]\nd:\n  - e\n", {"a": [1, {"b": "c"}], "d": ["e"]}),
    "quoted scalars stay text": ("a: '1'\nb: \"yes\"\n", {"a": "1", "b": "yes"}),
    "literal and folded text": ("a: |\n  x\n  y\nb: >-\n  x\n  y\n", {"a": "x\ny\n", "b": "x y"}),
    "JSON": ('{"a": [1, 1e-6, null, true, "\\u00e9"]}', {"a": [1, 1e-6, None, True, "é"]}),
    "JSON with tabs": ('{\n\t"a": {\n\t\t"b": 1\n\t}\n}\n', {"a": {"b": 1}}),
    "alias": ("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}),
    "an anchor may be set again": ("a: &x 1\nb: *x\nc: &x 2\nd: *x\n", {"a": 1, "b": 1, "c": 2, "d": 2}),
    "merge": ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
    "merge of several, the first wins": (
        "a: &x {b: 1}\nc: &y {b: 2, d: 3}\ne: {<<: [*x, *y]}\n",
        {"a": {"b": 1}, "c": {"b": 2, "d": 3}, "e": {"b": 1, "d": 3}},
    ),
    "tags of plain scalars": ("a: !!str 1\nb: !!int '5'\nc: !!float 5\n", {"a": "1", "b": 5, "c": 5}),
    "CRLF": ("a: 1\r\nb:\r\n  - c\r\n", {"a": 1, "b": ["c"]}),
    "tab inside a line": ('a:\t1\nb: "x\ty"\n', {"a": 1, "b": "x\ty"}),
    "empty collections": ("a: {}\nb: []\nc:\n", {"a": {}, "b": [], "c": None}),
}


@pytest.mark.parametrize("case", PLAIN_DATA)
def test_documents_become_plain_data(case: str) -> None:
    text, expected = PLAIN_DATA[case]
    assert only(text).data == expected


def test_aliases_become_copies() -> None:
    data = only("a: &x {b: 1}\nc: *x\n").data
    data["c"]["b"] = 2
    assert data["a"] == {"b": 1}


def test_several_documents_and_lists_are_taken_apart() -> None:
    text = "---\nkind: A\n---\n# nothing\n---\nkind: List\nitems:\n- kind: B\n- kind: CList\n  items:\n  - kind: C\n"
    documents = parse_documents(text, "all.yaml")
    assert [(document.data["kind"], document.place()) for document in documents] == [
        ("A", "all.yaml:2"),
        ("B", "all.yaml:8"),
        ("C", "all.yaml:11"),
    ]


LINES: dict[str, int] = {
    "": 1,
    "document": 1,
    "apiVersion": 1,
    "metadata": 3,
    "metadata.name": 4,
    "spec.config.trainer.logger": 9,
    "spec.config.trainer.optimizer.lr": 7,  # the nearest part that is there
    "spec.config.generator": 6,
    "spec.runtime.image": 5,
    "spec.storage.data[0].name": 12,
    "spec.storage.data[0].mountPath": 13,
    "spec.storage.data[1].mountPath": 14,
    "spec.storage.data[2].name": 11,
    "spec.pools.head.nodeSelector.example.com/kind.of": 18,
    "status.phase": 1,
}


@pytest.mark.parametrize("path", LINES)
def test_a_path_has_the_line_of_its_key(path: str) -> None:
    assert only(JOB).line_of(path) == LINES[path]
    assert only(JOB).place(path) == f"job.yaml:{LINES[path]}"


def test_lines_of_a_later_document_and_of_merged_keys() -> None:
    text = "kind: A\n---\nbase: &base\n  cpu: 1\nuse:\n  <<: *base\n  memory: 2\n"
    document = parse_documents(text, "job.yaml")[1]
    assert [document.line_of(path) for path in ("", "use.cpu", "use.memory", "base.cpu")] == [3, 4, 7, 4]


def test_the_longest_key_wins_where_keys_hold_dots() -> None:
    document = only("a:\n  b: 1\na.b: 2\n")
    assert [document.line_of("a"), document.line_of("a.b")] == [1, 3]


def bomb(levels: int) -> str:
    """Ten times more values with each level."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    return text + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, levels))


# text -> what the one line must say, in this order
UNUSABLE: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["job.yaml: is empty", "apiVersion"]),
    "comments": ("# later\n\n", ["job.yaml: holds no document"]),
    "separators": ("---\n---\n", ["job.yaml: holds no document"]),
    "null": ("~\n", ["job.yaml: holds no document"]),
    "text": ("hello world\n", ["job.yaml:1: is only text", "kind"]),
    "list": ("- kind: A\n", ["job.yaml:1: is a list"]),
    "list of texts": ("kind: List\nitems:\n- a\n", ["job.yaml:3: is only text"]),
    "control character": ("a: 1\nb: \x00\n", ["job.yaml:2: is not a text file", "U+0000"]),
    "half of a pair": ("a: \ud800\n", ["job.yaml:1: is not a text file", "U+D800"]),
    "no character": ("a: \uffff\n", ["job.yaml:1: is not a text file", "U+FFFF"]),
    "tab": ("spec:\n\tconfig: 1\n", ["job.yaml:2: is indented with a tab", "spaces"]),
    "indentation": ("a:\n    b: 1\n  c: 2\n", ["job.yaml:3: is not YAML", "begins in line 1", "indent"]),
    "value and map": ("a: 1\n  b: 2\n", ["job.yaml:2: is not YAML", "indent it like its neighbours"]),
    "no colon": ("a: 1\nspec\nb: 2\n", ["job.yaml:2: is not YAML", "write 'key: value'"]),
    "open quote": ("a: 1\nb: 'x\nc: 2\n", ["job.yaml:2: is not YAML", "close the quotation mark"]),
    "open bracket": ("a: 1\nb: [1, 2\nc: 2\n", ["job.yaml:2: is not YAML", "close the bracket"]),
    "character": ("a: @b\n", ["job.yaml:1: is not YAML", "quotes"]),
    "escape": ('a: "\\d"\n', ["job.yaml:1: is not YAML", "backslash"]),
    "list after its key": ("a: - b\n", ["job.yaml:1: is not YAML", "line of its own"]),
    "set twice": (
        "a:\n  b: 1\n  c: 2\n  b: 3\n",
        ["job.yaml:4: 'b' is set a second time, first in line 2"],
    ),
    "number as key": ("1: a\n", ["job.yaml:1: the key 1 means a number", 'write "1"']),
    "boolean as key": ("a:\n  on: b\n", ["job.yaml:2: the key on means true", 'write "on"']),
    "null as key": ("? \n: b\n", ["job.yaml:1: the key ~ means null"]),
    "map as key": ("{a: b}: c\n", ["job.yaml:1: a key must be text"]),
    "alias as key": ("a: &x b\n*x : c\n", ["job.yaml:2: *x is an alias where a key should be"]),
    "template as value": ("a:\n  b: {{ .Values.b }}\n", ["job.yaml:2: {{ }} looks like a template", "helm template"]),
    "template as line": ("a: 1\n{{- if .Values.b }}\nb: 1\n{{- end }}\n", ["job.yaml:2:", "helm template"]),
    "Python's tag": ("a: !!python/object/apply:os.system [ls]\n", ["job.yaml:1: the tag '!!python/object/apply:os"]),
    "own tag": ("a: !foo 1\n", ["job.yaml:1: the tag '!foo'"]),
    "tag of bytes": ("a: !!binary aGVsbG8=\n", ["job.yaml:1: the tag '!!binary'"]),
    "tag of a set": ("a: !!set {b, c}\n", ["job.yaml:1: the tag '!!set'"]),
    "tag that does not fit": ("a: !!int b\n", ["job.yaml:1: 'b' is no int"]),
    "not finite": ("a: 1\nb: .nan\n", ["job.yaml:2: .nan is no number"]),
    "alias of nothing": ("a: *b\n", ["job.yaml:1: *b stands for &b"]),
    "alias of itself": ("a: &b [*b]\n", ["job.yaml:1: *b stands for &b"]),
    "alias of another document": ("a: &b 1\n---\nc: *b\n", ["job.yaml:3: *b stands for &b"]),
    "merge of text": ("a: {<<: b}\n", ["job.yaml:1: << merges maps"]),
    "deep flow": ("a: " + "[" * 5000, [f"job.yaml:1: nests deeper than {MAX_DEPTH} levels"]),
    "deep blocks": ("".join(f"{' ' * n}a:\n" for n in range(90)), [f"job.yaml:{MAX_DEPTH + 1}: nests deeper"]),
    "deep by aliases": (
        "a: &x " + "[" * 40 + "1" + "]" * 40 + "\nb: " + "[" * 40 + "*x" + "]" * 40 + "\n",
        ["job.yaml:2: nests deeper"],
    ),
    "many values": ("a: [" + "1," * (MAX_VALUES + 1) + "]", [f"job.yaml:1: there are more than {MAX_VALUES:,} values"]),
    "many values by aliases": (bomb(9), ["job.yaml:", "more than 100,000 values", "aliases (*name) written out"]),
    "many values by merges": (
        f"a: &x {{{', '.join(f'k{n}: 1' for n in range(1000))}}}\nb:\n" + "- <<: *x\n" * 200,
        ["more than 100,000 values", "aliases (*name) written out"],
    ),
    "much text by aliases": (
        f"a: &x {'x' * 100_000}\nb: [{', '.join(['*x'] * 100)}]\n",
        [f"job.yaml:2: there are more than {MAX_BYTES:,} characters"],
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_gets_one_clear_line(case: str) -> None:
    text, expected = UNUSABLE[case]
    with pytest.raises(UnusableInput) as refusal:
        parse_documents(text, "job.yaml")
    message = str(refusal.value)
    assert message.startswith("job.yaml:")
    assert "\n" not in message
    position = 0
    for part in expected:
        assert part in message[position:], message
        position = message.index(part, position)


FILES: dict[str, tuple[bytes, object]] = {
    "UTF-8": ("a: é\n".encode(), {"a": "é"}),
    "UTF-8 with a byte order mark": ("\ufeffa: é\n".encode(), {"a": "é"}),
    "UTF-16, little end first": (b"\xff\xfe" + "a: é\n".encode("utf-16-le"), {"a": "é"}),
    "UTF-16, big end first": (b"\xfe\xff" + "a: é\n".encode("utf-16-be"), {"a": "é"}),
}


@pytest.mark.parametrize("case", FILES)
def test_files_in_the_encodings_that_kubectl_reads(tmp_path: Path, case: str) -> None:
    content, expected = FILES[case]
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    (document,) = read_documents(str(path))
    assert document.data == expected
    assert document.source == str(path)


UNUSABLE_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "Latin-1": ("a: é\n".encode("latin-1"), "the byte 0xe9 at offset 3 is no UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not a text file"),
    "half of UTF-16": (b"\xff\xfea\x00b", "is no UTF-16"),
    "too large": (b"a: 1\n" * (2 * 1024 * 1024), "is too large: 10.0 MiB"),
}


@pytest.mark.parametrize("case", UNUSABLE_FILES)
def test_files_that_are_no_documents(tmp_path: Path, case: str) -> None:
    content, expected = UNUSABLE_FILES[case]
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(UnusableInput) as refusal:
        read_documents(str(path))
    assert str(refusal.value).startswith(f"{path}:")
    assert expected in str(refusal.value)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    for path, expected in (
        (str(tmp_path), "is a directory; name the files in it"),
        (str(tmp_path / "missing.yaml"), "cannot be read: No such file or directory"),
        (os.devnull, "is empty"),
        ("/dev/zero", "is too large: more than 3 MiB"),
    ):
        with pytest.raises(UnusableInput, match=expected) as refusal:
            read_documents(path)
        assert str(refusal.value).startswith(f"{path}: ")


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: 1\nb: 2\n")))
    (document,) = read_documents("-")
    assert document.data == {"a": 1, "b": 2}
    assert document.place("b") == "<stdin>:2"
