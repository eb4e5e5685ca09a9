"""Metrics of parts are those of the whole, whatever the parts."""

from __future__ import annotations

import pytest
import torch

from rltrain_trainer.algorithms.statistics import as_part, distribution, finished, joined
from token_losses import draw


def metrics_of(rows: slice) -> dict[str, torch.Tensor]:
    case = draw()
    values, mask = case.advantages[rows], case.mask[rows]
    share = (values > 0).double()[mask].mean() if mask.any() else torch.zeros(())
    first = (values[:, -1:] > 0)[mask.any(dim=-1)].double()
    return {
        "clip_ratio": share,
        "outlier_seq_masked_ratio": first.mean() if len(first) else torch.zeros(()),
        **{f"is_ratio_{name}": value for name, value in distribution(values, mask).items()},
    }


PARTS = {
    "halves": [slice(0, 6), slice(6, 12)],
    "single rows, one of them empty": [slice(row, row + 1) for row in range(12)],
    "uneven": [slice(0, 3), slice(3, 4), slice(4, 12)],
}


@pytest.mark.parametrize("parts", PARTS)
def test_parts_join_to_the_whole(parts: str) -> None:
    mask = draw().mask
    total: dict[str, torch.Tensor] = {}
    for rows in PARTS[parts]:
        shares = {
            "token_share": mask[rows].sum() / mask.sum().double(),
            "sequence_share": mask[rows].any(dim=-1).sum() / mask.any(dim=-1).sum().double(),
        }
        total = joined(total, as_part(metrics_of(rows), **shares))
    whole = {name: value.item() for name, value in metrics_of(slice(0, 12)).items()}
    assert finished({name: value.item() for name, value in total.items()}) == pytest.approx(whole, abs=1e-9)


def test_a_distribution_is_of_what_counts() -> None:
    values = torch.tensor([[9.0, 1.0, 2.0], [9.0, 6.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
    result = {name: value.item() for name, value in distribution(values, mask).items()}
    assert result == pytest.approx({"mean": 3.0, "std": (14 / 3) ** 0.5, "max": 6.0, "min": 1.0})
    assert not any(value.item() for value in distribution(values, torch.zeros_like(mask)).values())


def test_extremes_of_nothing_are_zero() -> None:
    nothing = {"token_share": torch.zeros(()), "sequence_share": torch.zeros(())}
    part = as_part({"x_max": torch.tensor(0.0), "x_min": torch.tensor(0.0)}, **nothing)
    assert finished({name: value.item() for name, value in part.items()}) == {"x_max": 0.0, "x_min": 0.0}
    one = as_part(
        {"x_max": torch.tensor(-2.0), "x_min": torch.tensor(2.0)},
        token_share=torch.ones(()),
        sequence_share=torch.ones(()),
    )
    both = joined(part, one)
    assert finished({name: value.item() for name, value in both.items()}) == {"x_max": -2.0, "x_min": 2.0}


def test_numbers_of_a_users_loss_may_be_plain() -> None:
    shares = {"token_share": torch.tensor(0.5), "sequence_share": torch.tensor(0.5)}
    part = as_part({"seen": 3.0, "far_std": 2}, **shares)
    both = joined(part, as_part({"seen": 1.0, "far_std": 4}, **shares))
    assert finished({name: value.item() for name, value in both.items()}) == {"seen": 2.0, "far_std": 3.0}
