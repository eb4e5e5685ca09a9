"""Kubernetes quantities as numbers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rltrain_api.quantity import parse_quantity

QUANTITIES: dict[str, Decimal] = {
    "2": Decimal(2),
    "+2": Decimal(2),
    "0.5": Decimal("0.5"),
    ".5": Decimal("0.5"),
    "2.": Decimal(2),
    "500m": Decimal("0.5"),
    "250u": Decimal("0.00025"),
    "7n": Decimal("0.000000007"),
    "1k": Decimal(1000),
    "1Ki": Decimal(1024),
    "3M": Decimal(3_000_000),
    "3Mi": Decimal(3 * 1024**2),
    "1.5Gi": Decimal(3 * 2**29),
    "2Ti": Decimal(2 * 1024**4),
    "1P": Decimal(10**15),
    "1E": Decimal(10**18),
    "1Ei": Decimal(1024**6),
    "1E3": Decimal(1000),
    "12e-1": Decimal("1.2"),
}


@pytest.mark.parametrize("text", QUANTITIES)
def test_quantity(text: str) -> None:
    assert parse_quantity(text) == QUANTITIES[text]


@pytest.mark.parametrize("text", ["", "Gi", "4 GB", "4GB", "1,5Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)
