"""Kubernetes quantities (`500m`, `4Gi`) as exact numbers, so that rules can compare them."""

from __future__ import annotations

from decimal import Decimal

_BINARY = {f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
}
_SUFFIXES = {**_BINARY, **_DECIMAL}  # two letters first: "Mi" must not be read as "M" and a rest


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity means, in its own unit (cores, bytes).

    `text` matches `rltrain_api.job.QUANTITY_PATTERN`; anything else raises ValueError.
    """
    for suffix, factor in _SUFFIXES.items():
        if text.endswith(suffix):
            return _number(text.removesuffix(suffix), text) * factor
    return _number(text, text)


def _number(digits: str, text: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError as error:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 4Gi") from error
