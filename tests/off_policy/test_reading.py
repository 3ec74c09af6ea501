"""What an evaluation reads and keeps: weights, rewards over time, calibration, items; and what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from two_contexts import LOGGED, LOGGED_TRUTH, SPEC, TARGET, TRUE_REWARD, TRUTH, MemoryLog, Table, simulated

from slatewise.errors import InputError
from slatewise.estimators import ESTIMATORS
from slatewise.interactions import Catalogue
from slatewise.off_policy import ItemGroups, evaluate
from slatewise.off_policy.tracking import PIECES


def with_catalogue(log: MemoryLog) -> MemoryLog:
    """The same log, its actions items 3, 2, 1, 0 of a catalogue of five."""
    catalogue = Catalogue.of(torch.arange(5.0)[:, None], ["e", "d", "c", "b", "never"])
    ids = torch.tensor([3, 2, 1, 0]).expand(len(log.rows), 4).contiguous()
    observation = replace(log.rows.observation, item_ids=ids, catalogue=catalogue)
    spec = replace(SPEC, catalogue=("number",))
    return replace(log, spec=spec, rows=replace(log.rows, observation=observation))


def parts(log: MemoryLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user, action = log.rows.observation.user.argmax(1), log.rows.decision.slate[:, 0]
    weights = (TARGET / LOGGED)[user, action]
    return log.rows.response.total_reward.numpy(), weights.numpy(), action.numpy()


def changed(log: MemoryLog, **decision: Any) -> MemoryLog:
    return replace(log, rows=replace(log.rows, decision=replace(log.rows.decision, **decision)))


def test_all_estimators_find_the_truth_but_the_model_alone() -> None:
    """Switch-DR and its kin keep the interval of DR, so they hold the truth wherever it does."""
    result = evaluate(simulated(20_000, 0), Table(TARGET), estimators="all")
    judged = result.policies["table"]
    assert set(judged.estimates) == set(ESTIMATORS) - {"MIPS"}
    for name, estimate in judged.estimates.items():
        if name != "DM":
            assert estimate.low < TRUTH < estimate.high, name
            difference = judged.differences[name]
            assert difference.low < TRUTH - LOGGED_TRUTH < difference.high, name
    assert set(judged.parameters) == {"cIPS", "Switch-DR", "DRos"}
    for name, parent in (("cIPS", "IPS"), ("Switch-DR", "DR"), ("DRos", "DR")):
        tuned, untuned = judged.estimates[name], judged.estimates[parent]
        assert judged.parameters[name] in ESTIMATORS[name].grid
        assert tuned.low == pytest.approx(min(untuned.low, tuned.value))
        assert tuned.high == pytest.approx(max(untuned.high, tuned.value))
    alone = evaluate(simulated(1000, 0), Table(TARGET), estimators="DM")
    assert not alone.better
    assert alone.verdict == "cannot tell how good table is by DM alone: the error of its model is not known"


def test_mips_knows_groups_of_items_and_holds_the_logging_policy_against_the_log() -> None:
    """Actions 0, 1 and 2, 3 earn alike: the weights of groups are far smaller, and the value is still right."""
    log = simulated(30_000, 1)
    user, action = log.rows.observation.user.argmax(1), log.rows.decision.slate[:, 0]
    alike = torch.tensor([[0.2, 0.2, 0.7, 0.7], [0.6, 0.6, 0.1, 0.1]], dtype=torch.float64)
    draws = torch.rand(len(log.rows), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reward = (draws < alike[user, action]).double()
    log.rows = replace(log.rows, response=replace(log.rows.response, reward=reward[:, None]))
    groups = ItemGroups(Table(LOGGED), torch.tensor([0, 0, 1, 1]))
    judged = evaluate(log, Table(TARGET), groups=groups).policies["table"]
    assert list(judged.estimates) == ["IPS", "SNIPS", "DR", "MIPS"]
    truth = float((TARGET * alike).sum(1).mean())
    mips = judged.estimates["MIPS"]
    same = (groups.of_item[:, None] == groups.of_item).double()
    weights = ((TARGET @ same) / (LOGGED @ same))[user, action]
    assert mips.value == pytest.approx(float((weights * reward).mean()), rel=1e-12)
    assert abs(mips.value - truth) < 4 * mips.standard_error
    assert mips.standard_error < 0.7 * judged.estimates["IPS"].standard_error
    sizes = judged.effective_sample_sizes["MIPS"], judged.diagnostics.effective_sample_size
    assert sizes[0] == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))
    assert sizes[0] > 1.5 * sizes[1]
    with pytest.raises(InputError, match=r"groups\.policy shows what was logged with probability .* the log says"):
        evaluate(log, Table(TARGET), groups=replace(groups, policy=Table(TARGET)))
    with pytest.raises(InputError, match=r"of_item has 2 items, the log shows item 3: give all"):
        evaluate(log, Table(TARGET), groups=replace(groups, of_item=torch.tensor([0, 0])))
    with pytest.raises(InputError, match="MIPS needs groups of items and the policy that logged"):
        evaluate(log, Table(TARGET), estimators=["MIPS"])


def test_more_users_than_groups_change_values_by_nothing_and_errors_by_next_to_nothing() -> None:
    """100,000 users in 65,536 groups: standard errors are known to 0.3 %."""
    log = simulated(100_000, 3)
    reward, weights, _ = parts(log)
    result = evaluate(replace(log, size=40_000), Table(TARGET), estimators=["IPS", "SNIPS"])
    ips = result.policies["table"].estimates["IPS"]
    assert ips.value == pytest.approx((weights * reward).mean(), rel=1e-12)
    assert ips.standard_error == pytest.approx((weights * reward).std(ddof=1) / 100_000**0.5, rel=0.012)
    assert 40_000 < result.clusters < 65_536


@pytest.mark.parametrize("interval", ["bootstrap", "empirical-bernstein", "betting"])
def test_every_kind_of_interval_holds_the_truth_and_says_what_it_is(interval: str) -> None:
    policies = {"new": Table(TARGET), "old": Table(LOGGED)}
    result = evaluate(simulated(5000, 4), policies, interval=interval)
    normal = evaluate(simulated(5000, 4), {"new": Table(TARGET)}).policies["new"].estimates["IPS"]
    for judged, value in ((result.policies["new"], TRUTH), (result.policies["old"], LOGGED_TRUTH)):
        ips, difference = judged.estimates["IPS"], judged.differences["IPS"]
        assert ips.kind == difference.kind == result.interval == interval
        assert ips.low < value < ips.high
        assert difference.low <= value - LOGGED_TRUTH <= difference.high
    ips = result.policies["new"].estimates["IPS"]
    assert ips.value == pytest.approx(normal.value, rel=1e-12)
    width = (ips.high - ips.low) / (normal.high - normal.low)
    assert (0.9 < width < 1.1) if interval == "bootstrap" else (1.3 < width < 4)
    against = evaluate(
        simulated(5000, 4), {"new": Table(TARGET), "old": Table(LOGGED)}, interval=interval, baseline="old"
    )
    paired = against.policies["new"].differences["IPS"]
    assert paired.low < TRUTH - LOGGED_TRUTH < paired.high
    assert against.policies["old"].differences["IPS"].value == 0


def test_bounded_intervals_say_what_they_take_for_granted() -> None:
    log = simulated(500, 5)
    bernstein = evaluate(log, Table(TARGET), interval="empirical-bernstein")
    assert any("rewards to lie between 0 and 1" in note for note in bernstein.notes)
    assert any("weights to be at most 10, one over" in note for note in bernstein.notes)
    wide = evaluate(log, Table(TARGET), interval="betting", reward_range=(-1, 2))
    assert not any("rewards to lie" in note for note in wide.notes)
    narrow = evaluate(log, Table(TARGET), interval="betting").policies["table"].estimates["IPS"]
    assert wide.policies["table"].estimates["IPS"].low < narrow.low
    with pytest.raises(InputError, match=r"smallest_propensity is 0\.2, and the log has a slate of 0\.1: give what"):
        evaluate(log, Table(TARGET), interval="betting", smallest_propensity=0.2)
    with pytest.raises(InputError, match=r"reward_range is 0 to 0\.5, and the log has a reward of 1"):
        evaluate(log, Table(TARGET), interval="betting", reward_range=(0, 0.5))
    with pytest.raises(InputError, match="'betting' needs terms whose bounds are known, which DR has not: use IPS"):
        evaluate(log, Table(TARGET), interval="betting", estimators=["DR"])
    log.rows = replace(log.rows, user_id=torch.arange(500) // 2)
    with pytest.raises(InputError, match="it needs one a user or session, and this log has several: use 'bootstrap'"):
        evaluate(log, Table(TARGET), interval="betting")


def test_few_rewards_are_said_and_have_their_own_interval() -> None:
    log = simulated(4000, 6)
    rare = log.rows.response.reward * (torch.arange(4000)[:, None] % 100 == 0)
    log.rows = replace(log.rows, response=replace(log.rows.response, reward=rare))
    result = evaluate(log, Table(TARGET))
    judged = result.policies["table"]
    assert {i.kind for i in judged.estimates.values()} == {"few rewards"}
    ips = judged.estimates["IPS"]
    assert ips.high - ips.value > 1.2 * (ips.value - ips.low) > 0
    assert any(note.startswith("few rewards carry these estimates") for note in result.notes)


def test_propensities_that_were_estimated_are_said_and_unknown_ones_refused() -> None:
    log = simulated(2000, 7)
    estimated = evaluate(replace(log, propensities={"kind": "estimated", "by": "a model"}), Table(TARGET))
    assert estimated.verdict.endswith("(by propensities that were estimated, not logged)")
    assert estimated.verdict == estimated.policies["table"].verdict  # which is what commands and pages print
    assert estimated.notes[0].startswith("the propensities were estimated, not logged")
    with pytest.raises(InputError, match=r"does not know how likely its decisions were .* estimate the propensities"):
        evaluate(replace(log, propensities={"kind": "unknown"}), Table(TARGET))


@pytest.mark.parametrize("bad", [0.0, 1.5, -0.1, torch.nan])
def test_impossible_propensities_are_named(bad: float) -> None:
    log = simulated(300, 8)
    propensity = log.rows.decision.propensity.clone()
    propensity[[107, 111, 290]] = bad
    with pytest.raises(
        InputError, match=rf"propensity {bad:.6g} in row 107, 111 \(2 of the 100 rows from 100 on\): the"
    ):
        evaluate(replace(changed(log, propensity=propensity), size=100), Table(TARGET))


def test_rewards_that_are_no_numbers_are_named_and_missing_ones_counted() -> None:
    log = simulated(300, 9)
    reward, known = log.rows.response.reward.clone(), torch.ones(300, dtype=torch.bool)
    reward[205] = torch.nan
    log.rows = replace(log.rows, response=replace(log.rows.response, reward=reward))
    with pytest.raises(
        InputError, match=r"reward nan in row 205 \(1 of the 300 rows from 0 on\): mark rewards that are"
    ):
        evaluate(log, Table(TARGET))
    known[[7, 205]] = False
    log.rows = replace(log.rows, response=replace(log.rows.response, reward_known=known))
    result = evaluate(replace(log, size=100), Table(TARGET))
    assert result.excluded == 2
    assert any("2 decisions have no known reward and are left out (rows 7, 205): join" in n for n in result.notes)


def test_certain_decisions_show_what_the_log_cannot() -> None:
    """A third of the decisions had no choice: what the target does else there is nowhere in the log."""
    log = simulated(3000, 10)
    propensity = torch.where(torch.arange(3000)[:, None] % 3 == 0, 1.0, log.rows.decision.propensity)
    diagnostics = evaluate(changed(log, propensity=propensity), Table(TARGET)).policies["table"].diagnostics
    user, action = log.rows.observation.user.argmax(1), log.rows.decision.slate[:, 0]
    target = TARGET[user, action]
    assert diagnostics.agreement == pytest.approx(float(target.mean()))
    assert diagnostics.unsupported == pytest.approx(float((1 - target)[::3].sum()) / 3000)
    assert any("the logged policy was certain there" in warning for warning in diagnostics.warnings())


def test_the_histogram_of_weights() -> None:
    log = simulated(1000, 11)
    zero = torch.tensor([[0.37, 0.41, 0.22, 0], [0.53, 0.3, 0.17, 0]], dtype=torch.float64)
    histogram = evaluate(log, Table(zero)).policies["table"].weights
    assert histogram is not None
    _, _, action = parts(log)
    weights = (zero / LOGGED)[log.rows.observation.user.argmax(1), torch.as_tensor(action)].numpy()
    edges = np.array(histogram.edges)
    assert histogram.counts[0] == (weights == 0).sum() > 0
    np.testing.assert_array_equal(histogram.counts[1:], np.histogram(weights[weights > 0], edges[1:])[0])


def test_rewards_along_the_log() -> None:
    log = simulated(1000, 12)
    log.rows = replace(log.rows, time=5 + 10 * torch.arange(1000))
    series = evaluate(replace(log, size=170), Table(TARGET)).series
    assert series is not None
    reward, weights, _ = parts(log)
    assert len(series.first) <= PIECES < 2 * len(series.first) + 1
    width = series.first[1]
    for i, start in enumerate(series.first):
        piece = slice(start, start + width)
        assert series.logged[i] == pytest.approx(reward[piece].mean())
        assert series.policies["table"][i] == pytest.approx((weights * reward)[piece].sum() / weights[piece].sum())
    assert series.time == tuple(5 + 10 * start for start in series.first)


def test_calibration_of_a_model_that_learned_enough() -> None:
    calibration = evaluate(simulated(40_000, 13), Table(TARGET)).calibration
    assert calibration is not None
    assert sum(calibration.decisions) == 40_000
    assert len(calibration.decisions) >= 4
    for predicted, rewarded, count in zip(*vars(calibration).values(), strict=True):
        assert abs(predicted - rewarded) < 4 * (0.25 / count) ** 0.5
    assert evaluate(simulated(100, 0), Table(TARGET), estimators=["IPS"]).calibration is None


@pytest.mark.parametrize("estimators", [["DR"], ["SNIPS"]])
def test_shares_of_items(estimators: list[str]) -> None:
    """Exact where all candidates' probabilities are asked for, weighted where only the shown one's are."""
    log = with_catalogue(simulated(20_000, 14))
    items = evaluate(replace(log, size=7000), Table(TARGET), estimators=estimators).items
    assert items is not None
    _, weights, action = parts(log)
    item = 3 - action
    np.testing.assert_allclose(items.logged.numpy(), np.bincount(item, minlength=5) / 20_000)
    policy = items.policies["table"].numpy()
    if estimators == ["DR"]:
        of_action = TARGET[log.rows.observation.user.argmax(1)].mean(0).numpy()
        np.testing.assert_allclose(policy, [*of_action[::-1], 0], rtol=1e-9)
    else:
        np.testing.assert_allclose(policy, np.bincount(item, weights, minlength=5) / weights.sum())
    moved = evaluate(log, Table(TARGET), estimators=estimators).to_json()["items"]["table"]
    order = (items.policies["table"] - items.logged).argsort(descending=True)
    assert items.ids is not None
    assert [row["item"] for row in moved] == [items.ids[i] for i in order]
    assert evaluate(simulated(100, 0), Table(TARGET), estimators=estimators).items is None


def test_a_model_of_ones_own_is_used() -> None:
    class Truth:
        def add(self, rows: Any, reward: Tensor, cluster: Tensor) -> None:
            pass

        def scores(self, observation: Any, cluster: Tensor) -> Tensor:
            return TRUE_REWARD[observation.user.argmax(1)]

    log = simulated(2000, 15)
    truth = evaluate(log, Table(TARGET), reward_model=Truth(), estimators=["DM", "DR"]).policies["table"]
    user = log.rows.observation.user.argmax(1)
    assert truth.estimates["DM"].value == pytest.approx(float((TARGET * TRUE_REWARD).sum(1)[user].mean()))
    ridge = evaluate(log, Table(TARGET), estimators=["DR"]).policies["table"]
    assert truth.estimates["DR"].standard_error < 1.02 * ridge.estimates["DR"].standard_error
    with pytest.raises(InputError, match="unknown reward model 'rigde': did you mean 'ridge'"):
        evaluate(log, Table(TARGET), reward_model="rigde")


def test_an_unknown_interval() -> None:
    with pytest.raises(InputError, match="unknown interval 'bettting': did you mean 'betting'"):
        evaluate(simulated(100, 0), Table(TARGET), interval="bettting")
