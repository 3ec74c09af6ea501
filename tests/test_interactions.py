import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from slatewise.checks import check_slate
from slatewise.errors import InputError
from slatewise.interactions import (
    Catalogue,
    Decision,
    Interactions,
    Observation,
    Response,
    Spec,
    SummaryColumn,
)

BATCH, CANDIDATES, SLOTS, USER, ITEM, SIGNALS = 4, 5, 3, 2, 2, 2
CATALOGUE = Catalogue.of(torch.arange(18.0).reshape(6, 3), [f"item_{i}" for i in range(6)])


def observation() -> Observation:
    """Four users with five candidates; row 1 has two of them masked, row 3 has a single one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[0, 1, 2, 3, 4], [5, -1, 4, -1, 0], [1, 1, 2, 2, 3], [-1, -1, 5, -1, -1]])
    return Observation(
        user=torch.randn(BATCH, USER, generator=generator),
        item_ids=ids,
        items=torch.randn(BATCH, CANDIDATES, ITEM, generator=generator),
        catalogue=CATALOGUE,
        history=torch.randn(BATCH, 2, 9, generator=generator),
    )


def interactions() -> Interactions:
    clicked = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    return Interactions(
        observation=observation(),
        decision=Decision(
            torch.tensor([[4, 0, 1], [2, 0, 4], [1, 0, 3], [2, -1, -1]]),
            torch.tensor([[0.5, 0.25, 1.0], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).double(),
        ),
        response=Response(
            clicked=clicked,
            signals=torch.arange(24.0).reshape(BATCH, SLOTS, SIGNALS),
            reward=clicked.double() * torch.tensor([[2.0], [3.0], [4.0], [5.0]]).double(),
            decision_reward=torch.tensor([0.5, 0.0, -1.0, 0.0]).double(),
            reward_known=torch.tensor([True, True, True, False]),
        ),
        next_observation=observation(),
        terminated=torch.tensor([False, True, False, False]),
        truncated=torch.tensor([False, False, True, False]),
        episode=torch.arange(BATCH) + 10,
        step=torch.arange(BATCH),
        user_id=torch.arange(BATCH) + 100,
        time=torch.arange(BATCH) + 1_000_000,
        decision_id=np.array([f"d{i}" for i in range(BATCH)]),
        policy_version=None,
    )


def put(values: torch.Tensor, index: tuple[int, ...] | int, value: float) -> torch.Tensor:
    changed = values.clone()
    changed[index] = value
    return changed


def changed(record: Interactions, path: str, value: object) -> Interactions:
    """Return the record with one field of a nested record replaced."""
    room, _, field = path.rpartition(".")
    return replace(record, **{room: replace(getattr(record, room), **{field: value})} if room else {field: value})


def test_the_good_record_is_valid() -> None:
    interactions().validate()


def test_unknown_rewards_may_be_missing() -> None:
    good = interactions()
    changed(good, "response.reward", put(good.response.reward, (3, 0), math.nan)).validate()


GOOD = interactions()
SLATE, PROPENSITY = GOOD.decision.slate, GOOD.decision.propensity
BAD_INPUTS = {
    "user float64": ("observation.user", GOOD.observation.user.double(), ["observation.user", "float64", "float32"]),
    "user rows": ("observation.user", GOOD.observation.user[:3], ["observation.user", "[3, 2]", "[4, U]"]),
    "user NaN": (
        "observation.user",
        put(GOOD.observation.user, (2, 1), math.nan),
        ["observation.user[2, 1]", "nan", "replace or drop"],
    ),
    "ids int32": ("observation.item_ids", GOOD.observation.item_ids.int(), ["item_ids", "int32", "int64 [B, C]"]),
    "id outside the catalogue": (
        "observation.item_ids",
        put(GOOD.observation.item_ids, (0, 2), 6),
        ["observation.item_ids[0, 2] is 6", "−1 to 5"],
    ),
    "id below -1": (
        "observation.item_ids",
        put(GOOD.observation.item_ids, (1, 1), -2),
        ["observation.item_ids[1, 1] is -2", "−1 to 5"],
    ),
    "nobody to show": (
        "observation.item_ids",
        put(GOOD.observation.item_ids, (3, 2), -1),
        ["observation.item_ids[3]", "no candidate to show", "drop the row"],
    ),
    "items of other candidates": (
        "observation.items",
        GOOD.observation.items[:, :4],
        ["observation.items has 4 candidates", "item_ids has 5"],
    ),
    "items flat": ("observation.items", GOOD.observation.items[:, :, 0], ["observation.items", "[4, C, D]"]),
    "items infinite": (
        "observation.items",
        put(GOOD.observation.items, (1, 0, 1), math.inf),
        ["observation.items[1, 0, 1] is inf"],
    ),
    "history NaN": (
        "observation.history",
        put(GOOD.observation.history, (0, 1, 3), math.nan),
        ["observation.history[0, 1, 3] is nan"],
    ),
    "history rows": ("observation.history", GOOD.observation.history[:2], ["observation.history", "[4, H, F]"]),
    "slate int32": ("decision.slate", SLATE.int(), ["decision.slate", "int32", "int64 [4, K]"]),
    "slate rows": ("decision.slate", SLATE[:2], ["decision.slate", "[2, 3]", "[4, K]"]),
    "slate out of range": (
        "decision.slate",
        put(SLATE, (2, 1), 12),
        ["decision.slate[2, 1] shows candidate 12", "5 candidates (0 to 4)"],
    ),
    "slate below -1": ("decision.slate", put(SLATE, (0, 2), -3), ["decision.slate[0, 2] shows candidate -3"]),
    "masked candidate": (
        "decision.slate",
        put(SLATE, (1, 1), 3),
        ["decision.slate[1, 1] shows candidate 3", "not to be shown", "observation.mask"],
    ),
    "repeated candidate": (
        "decision.slate",
        put(SLATE, (0, 2), 4),
        ["decision.slate[0] is [4, 0, 4]", "repeated", "at most once"],
    ),
    "propensity float32": ("decision.propensity", PROPENSITY.float(), ["decision.propensity", "float64 [4, 3]"]),
    "propensity 0": ("decision.propensity", put(PROPENSITY, (1, 2), 0.0), ["decision.propensity[1, 2] is 0", "(0, 1]"]),
    "propensity 1.5": ("decision.propensity", put(PROPENSITY, (0, 1), 1.5), ["[0, 1] is 1.5", "(0, 1]", "1 rows"]),
    "propensity NaN": (
        "decision.propensity",
        put(put(PROPENSITY, (0, 0), math.nan), (2, 0), math.nan),
        ["[0, 0] is nan", "2 rows are affected", "drop or re-estimate"],
    ),
    "propensity of a hole": (
        "decision.propensity",
        put(PROPENSITY, (3, 2), 0.5),
        ["decision.propensity[3, 2]", "hole", "must be 1"],
    ),
    "clicked as numbers": ("response.clicked", GOOD.response.clicked.long(), ["response.clicked", "bool [4, 3]"]),
    "signals flat": ("response.signals", GOOD.response.signals[:, :, 0], ["response.signals", "[4, 3, S]"]),
    "signals infinite": (
        "response.signals",
        put(GOOD.response.signals, (2, 1, 0), -math.inf),
        ["response.signals[2, 1, 0] is -inf"],
    ),
    "reward float32": ("response.reward", GOOD.response.reward.float(), ["response.reward", "float64 [4, 3]"]),
    "reward NaN where known": (
        "response.reward",
        put(GOOD.response.reward, (2, 1), math.nan),
        ["response.reward[2, 1] is nan", "1 rows", "replace or drop"],
    ),
    "decision reward NaN where known": (
        "response.decision_reward",
        put(GOOD.response.decision_reward, 1, math.nan),
        ["response.decision_reward[1] is nan"],
    ),
    "decision reward per slot": (
        "response.decision_reward",
        GOOD.response.reward,
        ["response.decision_reward", "[4, 3]", "float64 [4]"],
    ),
    "known as numbers": ("response.reward_known", torch.ones(BATCH), ["response.reward_known", "bool [4]"]),
    "hole with a click": (
        "response.clicked",
        put(GOOD.response.clicked, (3, 1), True),
        ["slot 1 of row 3 is a hole", "cannot be clicked"],
    ),
    "hole with a reward": (
        "response.reward",
        put(GOOD.response.reward, (3, 2), 1.0),
        ["slot 2 of row 3 is a hole", "earn reward"],
    ),
    "next observation rows": ("next_observation", observation()[:2], ["next_observation has 2 rows", "batch has 4"]),
    "next observation NaN": (
        "next_observation.user",
        put(GOOD.observation.user, (1, 0), math.nan),
        ["next_observation.user[1, 0] is nan"],
    ),
    "terminated as numbers": ("terminated", torch.zeros(BATCH), ["terminated is float32 [4]", "bool [4]"]),
    "both ends": ("truncated", GOOD.terminated, ["row 1 is terminated and truncated", "keep terminated alone"]),
    "episode float": ("episode", torch.zeros(BATCH), ["episode is float32", "int64 [4]"]),
    "step negative": ("step", torch.tensor([0, 0, -1, 0]), ["step[2] is negative", "from 0"]),
    "time rows": ("time", torch.arange(3), ["time is int64 [3]", "int64 [4]"]),
    "decision ids rows": ("decision_id", np.array(["a"]), ["decision_id has 1 rows", "batch has 4"]),
}


@pytest.mark.parametrize(("path", "value", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_is_named_with_row_value_and_remedy(path: str, value: object, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        changed(interactions(), path, value).validate()
    for word in words:
        assert word in str(caught.value)


def test_without_a_catalogue_any_identity_is_allowed() -> None:
    ids = torch.tensor([[2**40, 7], [-1, 0]])
    bare = Observation(torch.zeros(2, 1), ids, torch.zeros(2, 2, 0))
    bare.validate()
    with pytest.raises(InputError, match=r"item_ids\[0, 1\] is -5: allowed are −1 or more"):
        replace(bare, item_ids=put(ids, (0, 1), -5)).validate()


def test_holes_may_repeat() -> None:
    check_slate(torch.tensor([[4, -1, -1], [2, -1, -1], [1, -1, -1], [2, -1, -1]]), observation().item_ids)


def test_a_catalogue_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\): expected \[N, E\]"):
        Catalogue.of(torch.zeros(3))
    with pytest.raises(InputError, match=r"features\[1\] are not finite: replace missing"):
        Catalogue.of(torch.tensor([[0.0], [math.nan]]))
    with pytest.raises(InputError, match="2 items but 1 ids"):
        Catalogue.of(torch.zeros(2, 1), ["a"])


def test_a_catalogues_version_is_a_hash_of_all_its_content() -> None:
    features = torch.arange(6.0).reshape(2, 3)
    same = Catalogue.of(features.clone(), ["a", "b"])
    others = [
        Catalogue.of(features, ["a", "c"]),
        Catalogue.of(features),
        Catalogue.of(features + 1, ["a", "b"]),
        Catalogue.of(features.reshape(3, 2), ["a", "b", "c"]),
        Catalogue.of(features.reshape(3, 2)),
    ]
    assert Catalogue.of(features, ["a", "b"]).version == same.version
    assert len({same.version, *(other.version for other in others)}) == 6


def assert_rows_equal(part: Interactions, whole: Interactions, rows: list[int]) -> None:
    assert len(part) == len(rows)
    assert torch.equal(part.observation.user, whole.observation.user[rows])
    assert torch.equal(part.observation.history, whole.observation.history[rows])
    assert torch.equal(part.next_observation.items, whole.next_observation.items[rows])
    assert torch.equal(part.decision.slate, whole.decision.slate[rows])
    assert torch.equal(part.response.signals, whole.response.signals[rows])
    assert torch.equal(part.episode, whole.episode[rows])
    assert list(part.decision_id) == [whole.decision_id[row] for row in rows]
    assert part.policy_version is None
    assert part.observation.catalogue is whole.observation.catalogue


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (2, [2]),
        (-1, [3]),
        (torch.tensor([3, 0, 0]), [3, 0, 0]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.zeros(BATCH, dtype=torch.bool), []),
    ],
    ids=["slice", "position", "last", "positions", "mask", "nothing"],
)
def test_indexing_selects_the_same_rows_of_everything(index: object, rows: list[int]) -> None:
    whole = interactions()
    assert_rows_equal(whole[index], whole, rows)


def test_cat_puts_together_what_indexing_took_apart() -> None:
    whole = interactions()
    assert_rows_equal(Interactions.cat([whole[:1], whole[1:3], whole[3:]]), whole, [0, 1, 2, 3])


def test_cat_refuses_other_catalogues_and_says_what_to_call() -> None:
    other = replace(observation(), catalogue=Catalogue.of(torch.ones(6, 3)))
    with pytest.raises(InputError, match=r"catalogue differs.*call \.dense\(\)") as caught:
        Observation.cat([observation(), other])
    assert CATALOGUE.version in str(caught.value)
    assert len(Observation.cat([observation().dense(), other.dense()])) == 2 * BATCH


def test_cat_takes_an_equal_catalogue_that_is_another_object() -> None:
    twin = Catalogue.of(CATALOGUE.features.clone(), CATALOGUE.ids)
    assert len(Observation.cat([observation(), replace(observation(), catalogue=twin)])) == 2 * BATCH


def test_cat_names_the_field_that_only_some_have_or_that_has_another_shape() -> None:
    with pytest.raises(InputError, match=r"Observation\.history is present in only some"):
        Observation.cat([observation(), replace(observation(), history=None)])
    with pytest.raises(InputError, match=r"Interactions\.user_id is present in only some"):
        Interactions.cat([interactions(), replace(interactions(), user_id=None)])
    narrow = replace(observation(), user=torch.zeros(BATCH, 1))
    with pytest.raises(InputError, match=r"Observation\.user has different shapes per row, \[\(1,\), \(2,\)\]"):
        Observation.cat([observation(), narrow])


def test_moving_interactions_moves_the_catalogue_too() -> None:
    moved = interactions().to("meta")
    assert moved.observation.user.device.type == "meta"
    assert observation().to("meta").catalogue.features.device.type == "meta"
    assert moved.observation.catalogue.features.device.type == "meta"
    assert moved.next_observation.catalogue.features.device.type == "meta"


def test_features_join_the_catalogue_and_the_moment() -> None:
    seen = observation()
    positions = torch.tensor([[4, -1], [2, 0], [0, 3], [2, 2]])
    features = seen.features(positions)
    for row in range(BATCH):
        for p, position in enumerate(positions[row].tolist()):
            if position < 0:
                expected = torch.zeros(3 + ITEM)
            else:
                shared = CATALOGUE.features[seen.item_ids[row, position]]
                expected = torch.cat([shared, seen.items[row, position]])
            assert torch.equal(features[row, p], expected)


def test_dense_writes_out_the_features_of_what_may_be_shown() -> None:
    seen, dense = observation(), observation().dense()
    everything = torch.arange(CANDIDATES).expand(BATCH, CANDIDATES)
    assert dense.catalogue is None
    assert torch.equal(dense.features(everything)[seen.mask], seen.features(everything)[seen.mask])
    assert bool((dense.items[~seen.mask] == 0).all())
    dense.validate()


@pytest.mark.parametrize("rows", [6, 39, 40, 41, 500], ids=lambda n: f"table of {n}")
def test_products_agree_with_a_dense_einsum_whichever_way_they_are_computed(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(0, rows, (BATCH, CANDIDATES), generator=generator)
    ids[2, 3] = -1
    users, table = torch.randn(BATCH, 7, generator=generator), torch.randn(rows, 7, generator=generator)
    seen = Observation(users, ids, torch.zeros(BATCH, CANDIDATES, 0), Catalogue.of(table))
    expected = torch.einsum("bz,bcz->bc", users.double(), table[ids.clamp(min=0)].double())
    torch.testing.assert_close(seen.products(users, table).double(), expected, rtol=0, atol=1e-5)


def test_total_reward_adds_slots_and_decision() -> None:
    assert interactions().response.total_reward.tolist() == [2.5, 3.0, -1.0, 5.0]


def test_done_is_either_end() -> None:
    assert interactions().done.tolist() == [False, True, True, False]


def test_a_spec_survives_json() -> None:
    spec = Spec(
        user=("age", "watched", "idle"),
        catalogue=("a", "b"),
        items=("price",),
        signals=("watch", "quality"),
        candidates=10,
        slate_size=2,
        history=4,
        summary=(
            SummaryColumn("watched", ("watch", "quality"), 0.005),
            SummaryColumn("idle", (), 0.0025, no_click=True),
        ),
    )
    assert Spec.from_json(json.loads(json.dumps(asdict(spec)))) == spec
    assert (spec.item_features, spec.history_features) == (3, 7)
