import sys

import pytest
import torch
from torch import Tensor

from slatewise import indexes
from slatewise.errors import InputError
from slatewise.indexes import ExactIndex, FaissIndex, recall, search_shown


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lopsided(rows: int, width: int) -> Tensor:
    """Return clustered vectors, some columns a hundred times as wide as others, and one column the sum of two."""
    centres = normal(20, width, seed=1)[torch.randint(20, (rows,), generator=torch.Generator().manual_seed(2))]
    vectors = (centres + 0.3 * normal(rows, width, seed=3)) * torch.logspace(-1, 1, width)
    return torch.cat([vectors, vectors[:, :1] + vectors[:, 1:2]], 1) + 5


def both(vectors: Tensor) -> list[ExactIndex | FaissIndex]:
    pytest.importorskip("faiss")
    return [ExactIndex(vectors), FaissIndex(vectors)]


def test_exact_search_is_a_sort_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = normal(1000, 7), normal(5, 7, seed=1)
    expected = (queries @ vectors.T).sort(1, descending=True).indices
    for at_once in (1, 500, 2**22):  # blocks of k, of 100 rows, and one
        monkeypatch.setattr(indexes, "SCORES_AT_ONCE", at_once)
        assert torch.equal(ExactIndex(vectors).search(queries, 9), expected[:, :9])
    assert torch.equal(ExactIndex(vectors).search(queries, 2000), expected)


def test_recall_is_the_share_of_the_truly_best() -> None:
    vectors = torch.tensor([[4.0], [3.0], [2.0], [1.0]])

    class Mistaken(ExactIndex):
        def search(self, queries: Tensor, k: int) -> Tensor:
            return torch.tensor([[3, 0]])

    assert recall(Mistaken(vectors), ExactIndex(vectors), torch.ones(1, 1), 2).tolist() == [0.5]
    assert recall(ExactIndex(vectors), ExactIndex(vectors), torch.ones(1, 1), 2).tolist() == [1.0]


@pytest.mark.parametrize("vectors", [normal(20_000, 16), lopsided(20_000, 15)], ids=["normal", "lopsided"])
def test_the_compressed_scan_finds_nearly_all_whatever_a_query_looks_at(vectors: Tensor) -> None:
    exact, index = both(vectors)
    queries = normal(64, 16, seed=4)
    queries[32:] *= torch.tensor([1.0, 0, 0, 0] * 4)  # queries that read few of the columns
    found = recall(index, exact, queries, 50)
    assert found.mean() > 0.95, found.mean()
    assert found.min() > 0.8


def test_the_compressed_index_is_the_same_every_time_and_takes_more_vectors() -> None:
    vectors, queries = normal(5000, 8), normal(8, 8, seed=1)
    exact, index = both(vectors)
    again = FaissIndex(vectors)
    for grown in (exact, index, again):
        grown.add(10 * queries)  # the best answers to these queries
        assert len(grown) == 5008
    assert torch.equal(index.search(queries, 20), again.search(queries, 20))
    assert torch.equal(index.search(queries, 1), torch.arange(5000, 5008).unsqueeze(1))
    assert torch.equal(exact.search(queries, 1), torch.arange(5000, 5008).unsqueeze(1))


def test_few_vectors_are_all_found() -> None:
    for index in both(normal(40, 3)):
        assert index.search(normal(2, 3, seed=1), 50).sort(1).values.tolist() == [list(range(40))] * 2
    same = FaissIndex(torch.ones(20, 3))
    assert same.search(torch.ones(1, 3), 20).sort(1).values.tolist() == [list(range(20))]
    with pytest.raises(InputError, match="15 vectors are too few to compress"):
        FaissIndex(normal(15, 3))


def test_what_may_not_be_shown_is_not_found() -> None:
    vectors, queries = normal(500, 6), normal(4, 6, seed=1)
    products = queries @ vectors.T
    best = products.topk(40, 1).indices
    shown = torch.ones(4, 500, dtype=torch.bool).scatter(1, best, False)  # the 40 best of everybody are gone
    expected = products.masked_fill(~shown, -torch.inf).topk(10, 1).indices
    for index in both(vectors):
        assert torch.equal(search_shown(index, queries, 10, shown), expected)
    nearly_nothing = torch.zeros(1, 500, dtype=torch.bool)
    nearly_nothing[0, [7, 3]] = True
    for index in both(vectors):
        rows = search_shown(index, queries, 3, nearly_nothing)
        assert rows.sort(1).values.tolist() == [[-1, 3, 7]] * 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ExactIndex(torch.zeros(3)), r"shape \[3\]: expected \[N, Z\]"),
        (lambda: ExactIndex(torch.zeros(0, 3)), "at least one row"),
        (lambda: ExactIndex(torch.tensor([[1.0], [torch.nan]])), "1 of 2 vectors are not finite, the first is row 1"),
        (lambda: ExactIndex(torch.zeros(2, 3)).add(torch.zeros(2, 4)), r"shape \[2, 4\]: expected \[n, 3\]"),
        (lambda: ExactIndex(torch.zeros(2, 3)).search(torch.zeros(1, 2), 1), r"queries .* expected \[B, 3\]"),
        (lambda: ExactIndex(torch.zeros(2, 3)).search(torch.zeros(1, 3), 0), "k=0"),
        (lambda: FaissIndex(torch.zeros(20, 3), rerank=0), "rerank=0"),
    ],
)
def test_bad_input_is_named(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]


def test_without_faiss_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'slatewise\[faiss\]'"):
        FaissIndex(normal(20, 3))
