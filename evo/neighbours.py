"""Finds nearest neighbours by cosine distance: exactly, block by block, in torch on the device that is available."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.pretrained.device import torch_device

if TYPE_CHECKING:
    from numpy.typing import NDArray


def nearest_distances(
    queries: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    itself: NDArray[np.int64],
    neighbours: int,
    device: str = "auto",
    block: int = 4096,
) -> NDArray[np.float32]:
    """Returns the cosine distances from each query to its nearest reference rows, without the query itself.

    The blocks are visited in a fixed order, and only the nearest rows found so far are kept. Memory therefore stays
    at block × block, and the result does not depend on how much memory a device has.

    Args:
        queries: unit vectors, shape (q, d).
        reference: unit vectors, shape (n, d).
        itself: for each query, the row of `reference` that is the query itself, or −1 if it has none, shape (q,).
        neighbours: the number of neighbours to look for.
        device: a torch device, or "auto".
        block: the number of rows of each side that are held at once. The default needs 64 MiB for similarities.

    Returns:
        Ascending distances in [0, 2], shape (q, min(neighbours, n)); +inf where no further neighbour exists.
    """
    import torch

    place = torch_device(device)
    width = min(neighbours, len(reference))
    result = np.empty((len(queries), width), dtype=np.float32)
    for top in range(0, len(queries), block):
        rows = torch.from_numpy(np.ascontiguousarray(queries[top : top + block])).to(place)
        own = torch.from_numpy(itself[top : top + block]).to(place)
        nearest = torch.full((len(rows), width), -torch.inf, device=place)
        for left in range(0, len(reference), block):
            columns = torch.from_numpy(np.ascontiguousarray(reference[left : left + block])).to(place)
            similarity = rows @ columns.T
            # a query must not find itself; -inf, unlike a removed column, keeps all rows of the block equally long
            inside = (own >= left) & (own < left + len(columns))
            similarity[inside.nonzero()[:, 0], own[inside] - left] = -torch.inf
            near = similarity.topk(min(width, similarity.shape[1]), dim=1).values
            # before the next one is made, or two of this size would be in memory
            del similarity
            nearest = torch.cat([nearest, near], dim=1).topk(width, dim=1).values
        # rounding lifts the similarity of equal vectors a little above 1, and no distance is negative
        result[top : top + block] = (1.0 - nearest).clamp_min(0.0).cpu().numpy()
    return result
