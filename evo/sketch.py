"""Rules out, by products of small integers, the rows of a matrix that cannot be among the nearest of some others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# the rows that have one step in common, and whose highest similarity alone is looked at first
_GROUP = 64
# groups for each neighbour, fewer of which would tell little of how near the nearest are
_WORTH_GROUPS = 8
_FIRST_GROUPS = 16
# so many similarities stay in the second cache of a core between the product and its use
_PIECE = 1 << 18
# a product of this many rows costs hardly more for each of them than one of more
_TOGETHER = 128
# the more rows are looked at once more together, the more of what is near one of them is far from the others
_FEW = 32
# the largest integer of a row
_MOST = 127


class Sketch:
    """Holds the rows of a growing matrix as integers of 8 bits, and finds which of them can be among the nearest.

    A row q is held as integers times a step, which gives a vector q̃ near it. By the inequality of Cauchy and Schwarz,
    |p·q − p̃·q̃| ≤ |p̃| |q − q̃| + |p − p̃| |q|. These lengths are measured when a row is taken in, so the bound holds for
    all vectors; it only leaves more rows when the integers are far from them. For unit vectors of 384 dimensions it is
    about 0.03. A product of such integers takes an eighth of the time that one of fp32 takes.

    Args:
        neighbours: the number of nearest rows that must not be lost.

    Attributes:
        together: the number of rows that are best asked about at once.
    """

    together = _TOGETHER

    def __init__(self, *, neighbours: int) -> None:
        self._neighbours = neighbours
        self._length = self._groups = 0
        self._error = self._longest = 0.0
        # of each group: its rows, and their step
        self._integers: Any = None
        self._steps: Any = None

    def worth(self, count: int) -> bool:
        """Tells whether so many rows are enough that a sketch costs less than it saves, on this processor."""
        import torch

        # without these instructions a product of integers is slow, and saturates on some processors
        enough = count > _WORTH_GROUPS * _GROUP * (self._neighbours + 1)
        return enough and bool(getattr(torch.cpu, "_is_vnni_supported", bool)())

    def follow(self, reference: NDArray[np.float32]) -> None:
        """Takes in the rows that have come since the last time, but for the last few that do not make a group."""
        self._length = len(reference)
        for top in range(self._groups * _GROUP, self._length - _GROUP + 1, _FIRST_GROUPS * _GROUP):
            count = min((self._length - top) // _GROUP, _FIRST_GROUPS)
            self._take(reference[top : top + count * _GROUP].reshape(count, _GROUP, -1))

    def _take(self, vectors: NDArray[np.float32]) -> None:
        import torch

        start, end = self._groups, self._groups + len(vectors)
        if self._integers is None or end > len(self._integers):
            self._grow(max(_FIRST_GROUPS, 2 * end), vectors.shape[2])
        rows = torch.from_numpy(vectors).double()
        # of a group of zeros any step will do
        steps = (rows.abs().amax(dim=(1, 2)) / _MOST).clamp_min_(1e-30).float()
        integers = (rows / steps[:, None, None]).round_().clamp_(-_MOST, _MOST)
        self._integers[start:end], self._steps[start:end] = integers.to(torch.int8), steps
        errors = torch.linalg.vector_norm(rows - integers * steps[:, None, None], dim=2)
        self._longest = max(self._longest, float(torch.linalg.vector_norm(rows, dim=2).max()))
        self._error = max(self._error, float(errors.max()))
        self._groups = end

    def _grow(self, room: int, dimension: int) -> None:
        import torch

        integers, steps = torch.empty((room, _GROUP, dimension), dtype=torch.int8), torch.empty(room)
        if self._groups:
            integers[: self._groups] = self._integers[: self._groups]
            steps[: self._groups] = self._steps[: self._groups]
        self._integers, self._steps = integers, steps

    def candidates(
        self, vectors: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Finds the rows that can be among the nearest of some.

        Whatever is left out has a lower similarity than each of the nearest, also as fp32 rounds it.

        Args:
            vectors: of the rows that are asked about, shape (q, d).
            rows: their positions in the matrix, shape (q,).

        Yields:
            A few of these rows, and the rows, ascending, that can be among the nearest of any of them or are they.
        """
        owner, column = self._near(vectors)
        late = np.arange(self._groups * _GROUP, self._length)
        for top in range(0, len(rows), _FEW):
            few = rows[top : top + _FEW]
            mine = column[(owner >= top) & (owner < top + _FEW)]
            yield few, np.unique(np.concatenate([mine, few, late]))

    def _near(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns pairs: the place of a vector among these, and a row that can be among its nearest."""
        import torch

        asked = torch.from_numpy(vectors).double()
        steps = (asked.abs().amax(dim=1, keepdim=True) / _MOST).clamp_min_(1e-30)
        integers = (asked / steps).round_().clamp_(-_MOST, _MOST)
        slack = self._slack(asked, integers * steps).float()
        integers, steps = integers.to(torch.int8), steps.float()
        # one more than the neighbours, since a row finds itself; the highest of a group stands for it alone, and so
        # the number of rows above the least of these is never told too large
        best = torch.full((len(asked), self._neighbours + 1), -torch.inf)
        found, unseen, width, looked_at = [], [], max(_PIECE // len(asked) // _GROUP, 1), 0
        for left in range(0, self._groups, width):
            right = min(left + width, self._groups)
            products, units = self._products(integers, left, right), self._steps[left:right]
            highest = products.amax(dim=2) * units * steps
            unseen.append(highest)
            # not for each piece: to sort costs as much as the product, and twice too many are still few
            if left >= 2 * looked_at:
                best, looked_at, unseen = _highest(best, unseen), left, []
            row, group = (highest >= best[:, -1:] - slack).nonzero(as_tuple=True)
            members = products[row, group] * units[group, None] * steps[row]
            pair, place = (members >= (best[:, -1:] - slack)[row]).nonzero(as_tuple=True)
            found.append((row[pair], (left + group[pair]) * _GROUP + place, members[pair, place]))
        owner, column, value = map(torch.cat, zip(*found, strict=True))
        inside = value >= (_highest(best, unseen)[:, -1:] - slack)[owner, 0]
        return owner[inside].numpy(), column[inside].numpy()

    def _products(self, integers: Any, left: int, right: int) -> Any:
        """Returns the products of integers with those of some groups, shape (q, groups, rows of a group)."""
        import torch

        others = self._integers[left:right]
        return torch._int_mm(integers, others.view(-1, integers.shape[1]).T).view(len(integers), len(others), _GROUP)

    def _slack(self, vectors: Any, integers: Any) -> Any:
        """Returns by how much less than the least of the nearest a similarity of integers may be, shape (q, 1)."""
        import torch

        own = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        error = torch.linalg.vector_norm(vectors - integers, dim=1, keepdim=True)
        # fp32 rounds the sum of so many products by less than this
        rounding = (vectors.shape[1] + 16) * 2.0**-22 * own * self._longest
        # once for the least of the nearest, and once for the one that is compared with it
        return 2 * ((own + error) * self._error + error * self._longest + rounding)


def _highest(best: Any, others: list[Any]) -> Any:
    import torch

    return torch.cat([best, *others], dim=1).topk(best.shape[1], dim=1).values
