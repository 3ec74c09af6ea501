import numpy as np
import pytest
import torch

from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.linear import Ridge, joint_features, joint_scores, joint_size

ROWS, CANDIDATES, USER, ITEM, SHARED = 7, 5, 3, 2, 4


def observation() -> Observation:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 6, (ROWS, CANDIDATES), generator=generator)
    ids[2, 3] = -1
    return Observation(
        torch.randn(ROWS, USER, generator=generator),
        ids,
        torch.randn(ROWS, CANDIDATES, ITEM, generator=generator),
        Catalogue.of(torch.randn(6, SHARED, generator=generator)),
    )


def by_hand(seen: Observation, row: int, position: int) -> np.ndarray:
    user = seen.user[row].double().numpy()
    if position < 0:
        item = np.zeros(SHARED + ITEM)
    else:
        shared = seen.catalogue.features[seen.item_ids[row, position].clamp(min=0)]
        item = torch.cat([shared, seen.items[row, position]]).double().numpy()
    return np.outer([1.0, *user], [1.0, *item]).ravel()


def test_joint_features_are_the_products_of_one_and_user_with_one_and_item() -> None:
    seen, positions = observation(), torch.tensor([[0, 4], [3, -1], [1, 1], [2, 0], [-1, -1], [4, 3], [0, 1]])
    found = joint_features(seen, positions)
    spec = Spec(("u",) * USER, ("c",) * SHARED, ("i",) * ITEM, (), CANDIDATES, 2)
    assert found.shape == (ROWS, 2, joint_size(spec))
    for row in range(ROWS):
        for p in range(2):
            np.testing.assert_allclose(found[row, p].numpy(), by_hand(seen, row, int(positions[row, p])), rtol=1e-12)


def test_joint_scores_are_joint_features_times_weights() -> None:
    seen = observation()
    everything = torch.arange(CANDIDATES).expand(ROWS, CANDIDATES)
    features = joint_features(seen, everything)
    weights = torch.randn(features.shape[2], generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(joint_scores(seen, weights), features @ weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("penalty", [0.01, 2.5])
def test_ridge_solves_the_normal_equations(penalty: float) -> None:
    """Batch by batch, in single precision as data comes, against one solve over all rows."""
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(200, 6)).astype(np.float32), random.normal(size=200)
    ridge = Ridge(6, penalty)
    for rows in np.array_split(np.arange(200), 7):
        ridge.add(torch.from_numpy(features[rows]), torch.from_numpy(targets[rows]))
    x = features.astype(np.float64)
    expected = np.linalg.solve(penalty * np.eye(6) + x.T @ x, x.T @ targets)
    np.testing.assert_allclose(ridge.weights().numpy(), expected, rtol=1e-10)


def test_a_feature_never_seen_has_weight_zero() -> None:
    ridge = Ridge(2, penalty=4.0)
    ridge.add(torch.tensor([[2.0, 0.0]]), torch.tensor([3.0]))
    assert ridge.weights().tolist() == pytest.approx([6 / 8, 0.0])
