"""YAML text that every reader reads alike."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rltrain_api.yaml_text import yaml_text

DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "scalars": (
        {"text": "a: b", "number": 1, "yes_or_no": True, "nothing": None},
        'text: "a: b"\nnumber: 1\nyes_or_no: true\nnothing: null\n',
    ),
    "number that YAML 1.1 would read as text": ({"small": 1e-06}, "small: 1.0e-06\n"),
    "empty collections": ({"list": [], "map": {}}, "list: []\nmap: {}\n"),
    "nested": (
        {"map": {"list": [{"one": 1, "two": [2]}, "c"]}},
        "map:\n  list:\n    - one: 1\n      two:\n        - 2\n    - c\n",
    ),
    "list in a list": ({"list": [[1, 2], []]}, "list:\n  -\n    - 1\n    - 2\n  - []\n"),
    "keys that are no plain words": ({"on": 1, "y": 2, "3": 3, "a b": 4}, '"on": 1\n"y": 2\n"3": 3\n"a b": 4\n'),
    "words that are text to every reader": (
        {"name": "grpo", "path": "/data/train.parquet", "model": "Qwen/Qwen2.5-0.5B", "class": "a-b_c+d@e"},
        "name: grpo\npath: /data/train.parquet\nmodel: Qwen/Qwen2.5-0.5B\nclass: a-b_c+d@e\n",
    ),
    "words that are something else to some reader": (
        {"a": "y", "b": "No", "c": "null", "d": "1e-6", "e": "0o17", "f": "on", "g": "", "h": "~/x", "i": "2026-01-01"},
        'a: "y"\nb: "No"\nc: "null"\nd: "1e-6"\ne: "0o17"\nf: "on"\ng: ""\nh: "~/x"\ni: "2026-01-01"\n',
    ),
    "characters that YAML does not allow, or takes for line ends": (
        {"text": "\x7f\x85\u2028\ufeff\U0001f600"},
        'text: "\\u007f\\u0085\\u2028\\ufeff\U0001f600"\n',
    ),
    "escapes": ({"text": 'a "b"\n\\c'}, 'text: "a \\"b\\"\\n\\\\c"\n'),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_text(case: str) -> None:
    document, text = DOCUMENTS[case]
    assert yaml_text(document) == text
    assert yaml.safe_load(text) == document


def test_infinity_has_no_text() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        yaml_text({"number": float("inf")})
