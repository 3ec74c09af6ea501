"""Which of many vectors have the largest inner products with a query: exactly, or by a compressed scan."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from slatewise.errors import InputError

SCORES_AT_ONCE = 2**22  # of an exact search: 16 MB, so that a block stays near the processor
LEVELS = 16  # of a number, in a compressed vector
QUERIES_AT_ONCE = 0x44  # that share a pass over the codes: 2 groups of 4; faiss's own choice takes 1.4 times as long


class Index(Protocol):
    """Vectors, float32 [N, Z], in which those of the largest inner products with a query are found."""

    def __len__(self) -> int: ...

    def search(self, queries: Tensor, k: int) -> Tensor:
        """Return the rows of the min(k, N) largest products with queries [B, Z], best first, int64 [B, min(k, N)]."""
        ...

    def add(self, vectors: Tensor) -> None:
        """Append vectors [n, Z]; they are rows N to N + n − 1."""
        ...


MakeIndex = Callable[[Tensor], Index]


class ExactIndex:
    """Every vector is multiplied with every query, block by block: no memory beyond the vectors, and nothing missed."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = _checked(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Tensor, k: int) -> Tensor:
        """Return the rows of the min(k, N) largest products with queries [B, Z], best first, int64 [B, min(k, N)]."""
        queries = _checked_queries(queries, self.vectors.shape[1], k)
        best, rows = queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0, dtype=torch.int64)
        block, begin = max(k, SCORES_AT_ONCE // max(1, len(queries))), 0
        for part in self.vectors.split(block):
            found = (queries @ part.T).topk(min(k, len(part)), 1)
            best, rows = torch.cat([best, found.values], 1), torch.cat([rows, found.indices + begin], 1)
            best, kept = best.topk(min(k, best.shape[1]), 1)
            rows, begin = rows.gather(1, kept), begin + len(part)
        return rows

    def add(self, vectors: Tensor) -> None:
        """Append vectors [n, Z]; they are rows N to N + n − 1."""
        self.vectors = torch.cat([self.vectors, _checked(vectors, self.vectors.shape[1])])


class FaissIndex:
    """A scan of all vectors at four bits a number, whose best `rerank` · k are multiplied exactly. Needs faiss-cpu.

    Vectors are whitened and turned at random first (queries the other way, so products stay): then every query has the
    same error, about a tenth of the products' own deviation, whatever it looks at, and columns that say the same are
    one. Each column has 16 levels, and a query's products with them are looked up in registers (product quantisation,
    Jégou et al. 2011, with sub-vectors of one number; the fast scan of André et al. 2015, "Cache locality is not
    enough"). Nothing is skipped, so unlike lists of neighbours it asks for no clusters among the vectors. Built in
    seconds a million, the same every time, so it is never read from a file.
    """

    def __init__(self, vectors: Tensor, rerank: int = 6) -> None:
        if rerank < 1:
            raise InputError(f"rerank={rerank}: at least the k best are multiplied exactly, give 1 or more")
        faiss, vectors = _faiss(), _checked(vectors).cpu()
        if len(vectors) < LEVELS:
            raise InputError(f"{len(vectors)} vectors are too few to compress: take the exact index")
        self._whiten, self._query = _whitening(vectors)
        width = self._whiten.shape[1]
        self._codes: Any = faiss.IndexPQFastScan(width, width, 4, faiss.METRIC_INNER_PRODUCT)
        self._codes.pq.cp.min_points_per_centroid = 1  # few vectors are no reason to warn
        self._codes.qbs = QUERIES_AT_ONCE
        self._index: Any = faiss.IndexRefineFlat(self._codes)
        self._index.k_factor = float(rerank)
        self._index.train((vectors[:: -(-len(vectors) // 100_000)] @ self._whiten).numpy())
        self._index.add((vectors @ self._whiten).numpy())

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: Tensor, k: int) -> Tensor:
        """Return rows of about the largest products with queries [B, Z], best first, int64 [B, min(k, N)]."""
        queries = _checked_queries(queries, len(self._whiten), k)
        _, rows = self._index.search((queries.cpu() @ self._query).numpy(), min(k, len(self)))
        return torch.from_numpy(rows).to(queries.device)

    def add(self, vectors: Tensor) -> None:
        """Append vectors [n, Z]; they are rows N to N + n − 1. Their levels are those of the first vectors."""
        self._index.add((_checked(vectors, len(self._whiten)).cpu() @ self._whiten).numpy())


INDEXES: dict[str, MakeIndex] = {"exact": ExactIndex, "faiss": FaissIndex}


def recall(index: Index, exact: Index, queries: Tensor, k: int) -> Tensor:
    """Return the share of the k truly best rows that an index finds for each query, float64 [B]."""
    true, found = exact.search(queries, k), index.search(queries, k).to(queries.device).sort(1).values
    hit = torch.searchsorted(found, true).clamp(max=found.shape[1] - 1)
    return (found.gather(1, hit) == true).double().mean(1)


def search_shown(index: Index, queries: Tensor, k: int, shown: Tensor) -> Tensor:
    """Return the rows of the k largest products among those that may be shown, int64 [B, k]; −1 where fewer may.

    shown: bool [1 or B, N]. Twice as many are asked for until enough of them may be shown.
    """
    shown = shown.expand(len(queries), -1)
    wanted = shown[:1].sum(1) if shown.stride(0) == 0 else shown.sum(1)
    wanted, asked = wanted.clamp(max=k), k
    while True:
        rows = index.search(queries, asked)
        allowed = shown.gather(1, rows)
        if asked >= shown.shape[1] or bool((allowed.sum(1) >= wanted).all()):
            break
        asked *= 2
    first = allowed.byte().sort(dim=1, descending=True, stable=True).indices[:, :k]
    rows = torch.where(allowed, rows, -1).gather(1, first)
    return torch.nn.functional.pad(rows, (0, k - rows.shape[1]), value=-1)


def _whitening(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return what makes vectors of covariance 1 in random directions, and its counterpart for queries, [Z, Y] each.

    Directions in which vectors hardly differ are left out: Y ≤ Z. A product loses what is the same for all vectors.
    """
    values, axes = torch.linalg.eigh(vectors.T.cov(correction=0).view(vectors.shape[1], -1).double())
    kept = values > values[-1] * 1e-9
    if not bool(kept.any()):
        kept[-1], values[-1] = True, 1.0  # all vectors are the same
    axes, deviation = axes[:, kept], values[kept].sqrt()
    turn = torch.randn(len(deviation), len(deviation), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(turn).Q
    return (axes / deviation @ turn).float(), (axes * deviation @ turn).float()


def _checked(vectors: Tensor, width: int | None = None) -> Tensor:
    if vectors.ndim != 2 or not len(vectors) or (width is not None and vectors.shape[1] != width):
        expected = f"[n, {width}]" if width is not None else "[N, Z] with at least one row"
        raise InputError(f"vectors of an index have shape {list(vectors.shape)}: expected {expected}")
    vectors = vectors.detach().float().contiguous()
    bad = ~vectors.isfinite().all(1)
    if bool(bad.any()):
        raise InputError(
            f"{int(bad.sum())} of {len(bad)} vectors are not finite, the first is row {int(bad.nonzero()[0])}: "
            "the network that made them has diverged, or features are missing"
        )
    return vectors


def _checked_queries(queries: Tensor, width: int, k: int) -> Tensor:
    if queries.ndim != 2 or queries.shape[1] != width:
        raise InputError(f"queries have shape {list(queries.shape)}: expected [B, {width}], as the vectors")
    if k < 1:
        raise InputError(f"k={k}: ask for at least one row")
    return queries.detach().float()


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError:
        raise InputError(
            "an approximate index needs faiss, which is not installed: pip install 'slatewise[faiss]', or take the "
            "exact index"
        ) from None
