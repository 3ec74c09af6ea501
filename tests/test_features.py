"""Features: the same numbers from every kind of table, in training and serving, before and after saving."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import slatewise as sw
from slatewise.arrow import stable_hash
from slatewise.errors import InputError
from slatewise.features import Category, Features, Hashed, Numeric, Tags, column_of

ROWS: dict[str, list[Any]] = {
    "age": [20.0, 30.0, None, 40.0],
    "country": ["at", "de", "at", None],
    "tags": [["a", "b"], [], None, ["b", "c"]],
    "query": ["x", "y", "z", "x"],
    "vip": [True, False, True, True],
}
TABLE = pa.table(ROWS)
COLUMNS = [
    Numeric(column="age", missing="mean"),
    "country",
    Tags(column="tags", most=2),
    Hashed(column="query", buckets=8),
    "vip",
]


def as_dicts(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def test_the_features_are_those_of_a_calculation_by_hand() -> None:
    features = Features.fit(TABLE, ["vip", COLUMNS[0], "country", COLUMNS[2]])
    assert features.names == (
        "vip", "age", "age=<missing>", "country=at", "country=de", "country=<other>",
        "tags=b", "tags=a", "tags=<other>",
    )  # fmt: skip
    deviation = np.std([20, 30, 40])
    expected = [
        [1, -10 / deviation, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0, 0, 0],
        [1, 10 / deviation, 0, 0, 0, 1, 1, 0, 1],
    ]
    torch.testing.assert_close(features.encode(TABLE), torch.tensor(expected, dtype=torch.float32))


def test_a_number_can_stay_as_it_is_and_a_constant_becomes_zero() -> None:
    table = pa.table({"price": [1, 3, 5], "same": [7, 7, 7]})
    features = Features.fit(table, [Numeric(column="price", standardise=False), "same"])
    assert features.encode(table).tolist() == [[1, 0], [3, 0], [5, 0]]


@pytest.mark.parametrize("library", ["pandas", "polars", "dicts", "large", "dictionary"])
def test_every_kind_of_table_gives_the_same_bits(library: str) -> None:
    features = Features.fit(TABLE, COLUMNS)
    if library == "pandas":
        pytest.importorskip("pandas")
        rows = TABLE.to_pandas()
        rows["country"] = rows["country"].astype("category")
    elif library == "polars":
        rows = pytest.importorskip("polars").from_arrow(TABLE)
    elif library == "dicts":
        rows = as_dicts(TABLE)
    elif library == "large":
        kinds = {"country": pa.large_string(), "tags": pa.large_list(pa.large_string()), "query": pa.string_view()}
        rows = pa.table({n: TABLE[n].combine_chunks().cast(kinds.get(n, TABLE[n].type)) for n in ROWS})
    else:
        rows = TABLE.set_column(1, "country", TABLE["country"].dictionary_encode())
    assert torch.equal(features.encode(rows), features.encode(TABLE))
    assert Features.fit(rows, COLUMNS) == features


def test_a_batch_gives_what_its_rows_give_one_by_one_as_in_serving() -> None:
    features = Features.fit(TABLE, COLUMNS)
    single = torch.cat([features.encode([row]) for row in as_dicts(TABLE)])
    assert torch.equal(single, features.encode(TABLE))
    assert torch.equal(features.encode(TABLE.slice(1, 2)), features.encode(TABLE)[1:3])


def test_values_never_seen_are_other_and_integers_are_their_text() -> None:
    features = Features.fit(pa.table({"shop": [1, 1, 2]}), [Category(column="shop")])
    assert features.names == ("shop=1", "shop=2", "shop=<other>")
    assert features.encode([{"shop": "1"}, {"shop": "3"}, {"shop": None}]).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_text_is_split_where_a_file_has_no_lists() -> None:
    rows = pa.table({"genres": ["Drama|War", "War", "", None]})
    features = Features.fit(rows, [Tags(column="genres")])
    assert features.names == ("genres=War", "genres=Drama", "genres=<other>")
    assert features.encode(rows).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_hashes_never_change() -> None:
    # BLAKE2b with a digest of 8 bytes, as `b2sum -l 64` prints it, read as a little-endian integer.
    digests = ("e4a6a0577479b2b4", "40f89e395b66422f", "55f19df5c1392f37")
    expected = [int.from_bytes(bytes.fromhex(digest), "little", signed=True) for digest in digests]
    assert stable_hash(pa.array(["", "a", "ü"])).tolist() == expected


def test_hashed_values_add_a_sign_to_one_bucket_each_and_lists_add_up() -> None:
    rows = pa.table({"q": [["a", "b"], ["a"], ["b"], [], None]})
    features = Features.fit(rows, [Hashed(column="q", buckets=1000)])
    both, a, b, nothing, missing = features.encode(rows)
    assert torch.equal(both, a + b)
    assert int((a != 0).sum()) == int((b != 0).sum()) == 1
    assert not nothing.any()
    assert not missing.any()
    unsigned = Features.fit(rows, [Hashed(column="q", buckets=1000, signed=False)]).encode(rows)
    assert torch.equal(unsigned[1], a.abs())


def test_signs_are_fair_and_buckets_even() -> None:
    values = pa.table({"q": [str(i) for i in range(20_000)]})
    encoded = Features.fit(values, [Hashed(column="q", buckets=10)]).encode(values)
    assert abs(float(encoded.sum())) < 4 * 20_000**0.5  # a sum of fair signs: four standard deviations
    counts = encoded.abs().sum(0)
    chi_squared = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_squared < 27.9  # 0.999 quantile of chi-squared with 9 degrees of freedom


def test_collisions_are_counted() -> None:
    rows = pa.table({"q": [str(i) for i in range(500)]})
    (column,) = Features.fit(rows, [Hashed(column="q", buckets=200)]).columns
    assert isinstance(column, Hashed)
    where = Features(columns=(column,)).encode(rows).abs().argmax(1)
    alone = int((where.bincount(minlength=200) == 1).sum())
    assert (column.collisions, column.distinct) == (500 - alone, 500)
    assert Features.fit(rows, [Hashed(column="q", buckets=10**6)]).collisions["q"][0] < 5


def test_a_schema_survives_json_and_is_equal() -> None:
    items = pa.table({"genre": ["war", "love"]})
    schema = sw.FeatureSchema.fit(TABLE, user=COLUMNS, catalogue=["genre"], item_table=items)
    read = sw.FeatureSchema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    assert read == schema
    assert torch.equal(read.user.encode(TABLE), schema.user.encode(TABLE))
    assert read.catalogue.names == ("genre=love", "genre=war", "genre=<other>")
    assert read.items.names == ()


FITTED = Features.fit(
    pa.table({"age": [1.0, 2.0], "country": ["at", "de"], "tags": [["a"], ["b"]], "query": ["x", "y"]}),
    ["age", "country", "tags", Hashed(column="query")],
)
GOOD = {"age": 1.0, "country": "at", "tags": ["a"], "query": "x"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{k: v for k, v in GOOD.items() if k != "country"}], "unknown column of the table 'country'.*known are age"),
        ([GOOD | {"age": "old"}], r"column 'age' \(numeric\) is string: expected numbers"),
        ([GOOD | {"age": None}, GOOD], r"column 'age' has no value in 1 of 2 rows \(0\): fill them.*missing = 'mean'"),
        ([GOOD, GOOD | {"age": float("nan")}], r"column 'age' has no value in 1 of 2 rows \(1\)"),
        ([GOOD | {"age": float("inf")}], r"column 'age' is infinite or above 1e\+30 in 1 of 1 rows \(0\)"),
        ([GOOD | {"country": 1.5}], r"column 'country' \(category\) is double: expected strings, integers"),
        ([GOOD | {"tags": 3}], r"column 'tags' \(list\) is int64: expected lists, or text separated by '\|'"),
        ([GOOD | {"tags": [1.5]}], r"column 'tags' \(list\) is double: expected lists of strings"),
        ([GOOD | {"query": 2.5}], r"column 'query' \(hashed\) is double: expected strings, integers or lists"),
        ([GOOD, GOOD | {"country": 3}], "column 'country' has values of several types"),
        ([3], "rows are a list, but not of dicts"),
        (7, "rows are of type int: give an Arrow table, a pandas .* or polars frame, or a list of dicts"),
    ],
)  # fmt: skip
def test_a_mismatch_names_the_column_what_was_expected_and_found(rows: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FITTED.encode(rows)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["age", "age"], "column 'age' is named twice"),
        (["aeg"], "unknown column of the table 'aeg': did you mean 'age'"),
        (["when"], r"column 'when' is timestamp\[us\]: make numbers, text or lists of it"),
        (["empty"], "column 'empty' is null: make numbers"),
        ([Numeric(column="empty", missing="mean")], "column 'empty' has no value to fit to"),
        (["huge"], "column 'huge' is infinite or above 1e.30 in 1 of 2 rows .0.: replace them"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(columns: Any, words: str) -> None:
    table = pa.table({
        "age": [1, 2], "when": pa.array([0, 1], pa.timestamp("us")), "empty": pa.nulls(2), "huge": [1e300, 0.0],
    })  # fmt: skip
    with pytest.raises(InputError, match=words):
        Features.fit(table, columns).encode(table)


def test_catalogue_columns_need_a_table_of_items() -> None:
    with pytest.raises(InputError, match="needs a table of items: give item_table"):
        sw.FeatureSchema.fit(TABLE, catalogue=["genre"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2, this slatewise reads 1: upgrade slatewise"),
        ({"format": None}, "format None.*damaged, fit it anew"),
        ({"extra": 1}, "damaged .extra"),
        ({"user": {"columns": [{"kind": "numeric", "column": "age", "scale": 0}]}}, "damaged .user.columns.0.num"),
        ({"user": {"columns": [{"kind": "code", "column": "age"}]}}, "damaged .user.columns.0"),
    ],
)  # fmt: skip
def test_a_damaged_or_later_schema_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sw.FeatureSchema.from_json(sw.FeatureSchema(user=FITTED).to_json() | change)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"column": "a", "kind": "hashd"}, "unknown kind of column 'hashd': did you mean 'hashed'"),
        ({"column": "a"}, "unknown kind of column 'None'"),
        ({"column": "a", "kind": "hashed", "bucket": 3}, "unknown setting of a hashed column 'bucket': did you mean"),
        ({"column": "a", "kind": "hashed", "buckets": 0}, "buckets=0: input should be greater than or equal to 1"),
        ({"kind": "numeric"}, "column=None: field required"),
    ],
)
def test_columns_in_settings_are_checked(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        column_of(values)
    assert column_of({"column": "a", "kind": "list"}) == Tags(column="a")
