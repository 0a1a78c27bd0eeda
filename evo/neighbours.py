"""Finds nearest neighbours by cosine distance: exactly, block by block, in torch on the device that is available."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.pretrained.device import torch_device
from fittest.evo.sketch import Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# BLAS has other kernels for very few rows, which round differently; with this many, a product of two vectors has the
# same bits whatever else is multiplied beside it
_FEWEST_ROWS = 16
# so few rows are measured at once each time, as earlier versions did: a product of very few rows rounds by how many
# they are, and an old run that is resumed shall find its own figures
_FEW = 64
# so many pairs take about a tenth of a second on one core
_SMALL = 1 << 24
# by so many times a pair takes less when a sketch rules it out
_QUICKER = 8


class NearestSoFar:
    """Knows the nearest other rows of each row of a matrix that grows, and looks at no pair of rows twice.

    A row that was measured before is compared with the rows that have come since. When a row is asked for that was
    never measured, all such rows are measured in one product, because a product of many rows costs a tenth for each
    of them of what a product of one does. Beside many others, a sketch first rules out on a CPU what
    cannot be among the nearest (`fittest.evo.sketch`), and the same product as ever measures the few that it leaves.

    Args:
        neighbours: the number of neighbours to look for.
        device: a torch device, or "auto".
        block: the number of rows of each side that are held at once. The default needs 64 MiB for similarities.

    Attributes:
        compared: the number of pairs of rows whose similarity was computed so far.
    """

    def __init__(self, *, neighbours: int, device: str = "auto", block: int = 4096) -> None:
        self.compared = 0
        self._neighbours = neighbours
        self._device = device
        self._block = block
        self._matrix: NDArray[np.float32] | None = None
        self._measured = self._length = 0
        # of each row: the number of rows it was compared with, and the similarities of the nearest, descending
        self._seen = np.zeros(0, dtype=np.int64)
        self._nearest = np.full((0, neighbours), -np.inf, dtype=np.float32)
        self._sketch = Sketch(neighbours=neighbours)

    def distances(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the cosine distances from some rows to the nearest others.

        Args:
            reference: unit vectors, shape (n, d). Rows that were there at an earlier call must not have changed; a
                matrix that does not continue the earlier one is measured from its beginning.
            rows: positions in `reference`, shape (q,).

        Returns:
            Ascending distances in [0, 2], shape (q, min(neighbours, n)); +inf where no further neighbour exists.
        """
        if len(reference) <= _FEW:
            return self._at_once(reference, rows)
        self._follow(reference)
        wanted = rows if not len(rows) or rows.max() < self._measured else np.append(rows, self._never_measured())
        self._measured = max(self._measured, int(wanted.max(initial=-1)) + 1)
        behind = np.unique(wanted[self._seen[wanted] < len(reference)])
        fresh = self._seen[behind] == 0
        # apart, or those that were compared before would be compared with everything once more
        self._compare_all(reference, behind[fresh])
        for some in _blocks(behind[~fresh], self._block):
            self._compare(reference, some)
        return _distances(self._nearest[rows, : min(self._neighbours, len(reference))])

    def _at_once(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        place = torch_device(self._device)
        # on one thread, since a product of few rows rounds by the number of threads as well, which training changes
        with _one_thread_for(len(rows) * len(reference)):
            similarity = torch.from_numpy(reference[rows]).to(place) @ torch.from_numpy(reference).to(place).T
        self.compared += similarity.numel()
        similarity[torch.arange(len(rows)), torch.from_numpy(rows)] = -torch.inf
        return _distances(similarity.topk(min(self._neighbours, len(reference)), dim=1).values.cpu().numpy())

    def _forget(self) -> None:
        self._measured = self._length = 0
        self._seen[:] = 0
        self._nearest[:] = -np.inf
        self._sketch = Sketch(neighbours=self._neighbours)

    def _never_measured(self) -> NDArray[np.int64]:
        return np.arange(self._measured, self._length)

    def _follow(self, reference: NDArray[np.float32]) -> None:
        """Makes room for the rows that have come; forgets everything if this is another matrix."""
        matrix = reference if reference.base is None else reference.base
        if self._matrix is not None and matrix is not self._matrix:
            # an archive moves to a larger matrix when it is full, which is seldom enough to look at all of it
            before = self._matrix[: self._length]
            if len(reference) < self._length or not np.array_equal(reference[: self._length], before):
                self._forget()
        elif len(reference) < self._length:
            self._forget()
        self._matrix, self._length = matrix, len(reference)
        if self._length > len(self._seen):
            more = max(self._length, 2 * len(self._seen)) - len(self._seen)
            self._seen = np.concatenate([self._seen, np.zeros(more, dtype=np.int64)])
            unknown = np.full((more, self._neighbours), -np.inf, dtype=np.float32)
            self._nearest = np.concatenate([self._nearest, unknown])

    def _compare_all(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Compares rows that were not compared with any other before."""
        if torch_device(self._device).type != "cpu" or not self._sketch.worth(len(reference)):
            for some in _blocks(rows, self._block):
                self._compare(reference, some)
            return
        self._sketch.follow(reference)
        self.compared += len(rows) * len(reference)
        with _one_thread_for(len(rows) * len(reference) // _QUICKER):
            for some in _blocks(rows, min(self._block, self._sketch.together)):
                for few, near in self._sketch.candidates(reference[some], some):
                    own, seen = np.searchsorted(near, few), np.zeros_like(few)
                    self._nearest[few] = self._nearest_of(reference[near], own, seen, self._nearest[few])
        self._seen[rows] = len(reference)

    def _compare(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Compares rows with all that have come since each of them was last compared."""
        seen = self._seen[rows]
        pairs = len(rows) * (len(reference) - int(seen.min()))
        self.compared += pairs
        with _one_thread_for(pairs):
            self._nearest[rows] = self._nearest_of(reference, rows, seen, self._nearest[rows])
        self._seen[rows] = len(reference)

    def _nearest_of(
        self, matrix: NDArray[np.float32], rows: NDArray[np.int64], seen: NDArray[np.int64], known: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns the highest similarities of rows to others.

        Args:
            matrix: holds the vectors of all of them.
            rows: positions in the matrix, shape (q,).
            seen: the number of rows that each of them was compared with before, shape (q,).
            known: the highest similarities to those, descending, shape (q, neighbours).
        """
        import torch

        place = torch_device(self._device)
        vectors = _padded(matrix[rows], place)
        own, before = torch.from_numpy(rows).to(place), torch.from_numpy(seen).to(place)
        nearest = torch.from_numpy(known).to(place)
        first, last = int(seen.min()), int(seen.max())
        for left in range(first, len(matrix), self._block):
            columns = matrix[left : left + self._block]
            similarity = (vectors @ _padded(columns, place).T)[: len(rows), : len(columns)]
            # a row must not find itself; -inf, unlike a removed column, keeps all rows of the block equally long
            inside = (own >= left) & (own < left + len(columns))
            similarity[inside.nonzero()[:, 0], own[inside] - left] = -torch.inf
            if last > left:
                numbers = torch.arange(left, left + len(columns), device=place)
                similarity.masked_fill_(numbers < before[:, None], -torch.inf)
            nearest = _merged(nearest, similarity)
            # before the next one is made, or two of this size would be in memory
            del similarity
        found: NDArray[np.float32] = nearest.cpu().numpy()
        return found


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (rows[top : top + size] for top in range(0, len(rows), size))


def _distances(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    # rounding lifts the similarity of equal vectors a little above 1, and no distance is negative
    found: NDArray[np.float32] = np.maximum(np.float32(1.0) - similarities, np.float32(0.0))
    return found


@contextmanager
def _one_thread_for(pairs: int) -> Iterator[None]:
    """Keeps a small product on one core: threads that wait for work spin, and cost more than the product."""
    import torch

    before = torch.get_num_threads()
    if pairs <= _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _padded(vectors: NDArray[np.float32], place: Any) -> Any:
    """Returns vectors as a tensor, with rows of zeros if they are very few."""
    import torch

    missing = _FEWEST_ROWS - len(vectors)
    if missing > 0:
        vectors = np.concatenate([vectors, np.zeros((missing, vectors.shape[1]), dtype=np.float32)])
    return torch.from_numpy(np.ascontiguousarray(vectors)).to(place)


def _merged(nearest: Any, similarity: Any) -> Any:
    """Returns the highest similarities of each row, descending, of those known and those that have come."""
    import torch

    width = nearest.shape[1]
    better = (similarity > nearest[:, -1:]).nonzero()
    if len(better) > width * len(nearest):
        some = similarity.topk(min(width, similarity.shape[1]), dim=1).values
    elif len(better):
        # beside many rows few are near, and it costs less to look for them than to sort
        row, column = better[:, 0], better[:, 1]
        counts = torch.bincount(row, minlength=len(nearest))
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        some = nearest.new_full((len(nearest), int(counts.max())), -torch.inf)
        some[row, rank] = similarity[row, column]
    else:
        return nearest
    return torch.cat([nearest, some], dim=1).topk(width, dim=1).values
