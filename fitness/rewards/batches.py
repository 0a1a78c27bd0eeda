"""Makes batches of token sequences for one forward pass: similar lengths together, bounded in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def length_batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Divides sequences into batches of at most `most_tokens` tokens, padding included.

    The result is a function of the lengths alone, since the members of a batch change the last bits of a score.

    Args:
        lengths: the number of tokens of each sequence.
        most_tokens: the most tokens of a batch. A sequence that is longer becomes a batch of its own.

    Returns:
        The indices of all sequences, shortest first; equal lengths keep their order.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # the new sequence is the longest so far, and all others in its batch are padded to its length
        if batches and (len(batches[-1]) + 1) * lengths[index] <= most_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Returns token ids, padded on the right, and their attention mask, each of shape (rows, longest row)."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
