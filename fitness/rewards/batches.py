"""Batches of token sequences for one forward pass: like lengths together, little padding, bounded in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def length_batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Indices of all sequences, shortest first, in batches of at most so many tokens with their padding.

    A function of the lengths alone, ties in their order. A sequence that is longer than a batch may be is one alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # the longest so far is the new one, to which all others in its batch are padded
        if batches and (len(batches[-1]) + 1) * lengths[index] <= most_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids, padded on the right, and their attention mask, each of shape (rows, longest row)."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
