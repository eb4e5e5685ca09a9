"""The table of SkyRL's configuration, read from the reference page that its dataclasses are printed on.

    python tests/support/skyrl_seed.py PAGE    prints the table that lies beside this file

One line for each leaf: dotted path, type as SkyRL writes it, default as JSON, separated by tabs. A section that may be
absent (`Optional[SamplingParams]`) stands with its own leaves; a section whose class the page does not print is one
leaf. Defaults that the page names but does not print are the constants below.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("skyrl_config.tsv")
ROOT = "SkyRLTrainConfig"
NOT_PRINTED = {
    "DEFAULT_MEGATRON_OPTIMIZER_KWARGS": {
        "overlap_cpu_optimizer_d2h_h2d": False,
        "use_precision_aware_optimizer": False,
        "optimizer_cpu_offload": False,
        "optimizer_offload_fraction": 0.0,
    },
    "DEFAULT_TRANSFORMER_CONFIG_KWARGS": {
        "recompute_granularity": "full",
        "recompute_modules": ["core_attn"],
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
        "gradient_accumulation_fusion": False,
    },
}
_CLASS = re.compile(r"^@dataclass\nclass \w+\(BaseConfig\):\n(?:    .*\n|\s*\n)+", re.MULTILINE)


def table_from_page(text: str) -> list[str]:
    """The lines of the table, in the order in which the dataclasses declare their fields."""
    classes: dict[str, ast.ClassDef] = {}
    for source in _CLASS.findall(text):
        node = ast.parse(source).body[0]
        assert isinstance(node, ast.ClassDef)
        classes.setdefault(node.name, node)
    return list(_rows(classes, ROOT, "", {}))


def class_count(text: str) -> int:
    """How many dataclasses the page prints."""
    return len(set(re.findall(r"^class (\w+)\(BaseConfig\):$", text, re.MULTILINE)))


def _rows(classes: dict[str, ast.ClassDef], name: str, prefix: str, given: dict[str, Any]) -> Iterator[str]:
    """Rows of one section; `given` holds what the owning field's default passes to the section's constructor."""
    for node in classes[name].body:
        if not isinstance(node, ast.AnnAssign):
            continue
        assert isinstance(node.target, ast.Name)
        field, kind = node.target.id, ast.unparse(node.annotation)
        path = f"{prefix}{field}"
        default = _default(node.value)
        section = kind.removeprefix("Optional[").removesuffix("]")
        if section in classes:
            assert kind == section or default is None, f"{path} may be absent, and is by default"
            yield from _rows(classes, section, f"{path}.", default if isinstance(default, dict) else {})
        else:
            value = given.get(field, default)
            yield f"{path}\t{kind}\t{json.dumps(value)}"


def _default(node: ast.expr | None) -> Any:
    """A default's value; a section's default is the dict of what its constructor is given, or None."""
    if isinstance(node, ast.Lambda):
        return _default(node.body)
    if isinstance(node, ast.Name):
        return NOT_PRINTED.get(node.id, {"dict": {}, "list": []}.get(node.id))
    if isinstance(node, ast.List):
        return [_default(entry) for entry in node.elts]
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called == "field":
            return _default(node.keywords[0].value)
        if called in ("copy.deepcopy", "os.path.expanduser"):
            return _default(node.args[0])
        return {keyword.arg: _default(keyword.value) for keyword in node.keywords}
    assert node is not None
    return ast.literal_eval(node)


if __name__ == "__main__":
    print("\n".join(table_from_page(Path(sys.argv[1]).read_text(encoding="utf-8"))))
