"""Off-policy evaluation on problems whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from two_contexts import ACTIONS, LOGGED, LOGGED_TRUTH, SPEC, TARGET, TRUTH, MemoryLog, Table, simulated

from slatewise.environments import make
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation
from slatewise.off_policy import Diagnostics, Interval, evaluate
from slatewise.off_policy.result import verdict
from slatewise.off_policy.reward_model import make_reward_model


def test_values_are_the_formulas_and_blocks_change_nothing() -> None:
    log = simulated(500, 0)
    result = evaluate(log, Table(TARGET))
    user, action = log.rows.observation.user.argmax(1).numpy(), log.rows.decision.slate[:, 0].numpy()
    reward = log.rows.response.total_reward.numpy()
    weights = TARGET.numpy()[user, action] / LOGGED.numpy()[user, action]
    estimates = result.policies["table"].estimates
    ips = weights * reward
    assert estimates["IPS"].value == pytest.approx(ips.mean(), rel=1e-12)
    assert estimates["IPS"].high == pytest.approx(ips.mean() + 1.964729 * ips.std(ddof=1) / 500**0.5, rel=1e-6)
    assert estimates["SNIPS"].value == pytest.approx(ips.sum() / weights.sum(), rel=1e-12)
    assert result.logged.value == pytest.approx(reward.mean(), rel=1e-12)
    diagnostics = result.policies["table"].diagnostics
    assert diagnostics.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert diagnostics.largest_weight == pytest.approx(weights.max())
    assert diagnostics.mean_weight == pytest.approx(weights.mean())
    assert (diagnostics.support, result.decisions, result.excluded, result.clusters) == (1, 500, 0, 500)
    small = evaluate(replace(log, size=37), Table(TARGET)).to_json()
    for name, values in result.policies["table"].estimates.items():
        for key in ("value", "low", "high", "standard_error"):
            assert getattr(values, key) == pytest.approx(small["policies"]["table"][name][key], rel=1e-9), (name, key)


def test_dr_is_the_formula_with_ridge_solved_by_hand() -> None:
    """Folds of sessions, each predicted by least squares on the others, written out in NumPy."""
    log = simulated(300, 1)
    log.rows = replace(log.rows, episode=torch.arange(300) // 5)
    user, action = log.rows.observation.user.argmax(1).numpy(), log.rows.decision.slate[:, 0].numpy()
    reward = log.rows.response.total_reward.numpy()
    fold = make_reward_model("ridge", SPEC, seed=3).fold(log.rows.episode).numpy()
    assert all(len(set(fold[i : i + 5])) == 1 for i in range(0, 300, 5))  # sessions are not torn apart

    def features(u: int, a: int) -> np.ndarray:
        one, item = np.eye(2)[u], np.eye(4)[a]
        return np.concatenate([[1], one, item, np.outer(one, item).ravel()])

    x = np.array([features(u, a) for u, a in zip(user, action, strict=True)])
    terms = np.zeros(300)
    for k in range(5):
        others = fold != k
        theta = np.linalg.solve(np.eye(15) + x[others].T @ x[others], x[others].T @ reward[others])
        q = np.array([[features(u, a) @ theta for a in range(4)] for u in range(2)])
        for i in np.flatnonzero(fold == k):
            weight = float(TARGET[user[i], action[i]] / LOGGED[user[i], action[i]])
            terms[i] = TARGET[user[i]].numpy() @ q[user[i]] + weight * (reward[i] - q[user[i], action[i]])
    result = evaluate(log, Table(TARGET), seed=3)
    dr = result.policies["table"].estimates["DR"]
    assert dr.value == pytest.approx(terms.mean(), rel=1e-9)
    sums = (terms - terms.mean()).reshape(60, 5).sum(1)  # clusters: the sessions
    assert dr.standard_error == pytest.approx(np.sqrt((sums**2).sum() * 60 / 59) / 300, rel=1e-9)
    assert result.clusters == 60


def test_folds_are_even_and_move_with_the_seed() -> None:
    clusters = torch.arange(20_000)
    folds = make_reward_model("ridge", SPEC, seed=0).fold(clusters)
    assert (folds.bincount(minlength=5) - 4000).abs().max() < 4 * (20_000 * 0.2 * 0.8) ** 0.5
    other = make_reward_model("ridge", SPEC, seed=1).fold(clusters)
    assert float((folds == other).double().mean()) == pytest.approx(0.2, abs=0.02)


def test_every_estimator_finds_the_truth_and_dr_is_the_least_noisy() -> None:
    estimates = evaluate(simulated(40_000, 2), Table(TARGET)).policies["table"].estimates
    assert set(estimates) == {"IPS", "SNIPS", "DR"}
    for name, estimate in estimates.items():
        assert abs(estimate.value - TRUTH) < 4 * estimate.standard_error, name
        assert estimate.standard_error < 0.02
    assert estimates["DR"].standard_error < 0.9 * estimates["IPS"].standard_error


def test_intervals_cover_the_truth_95_times_in_100() -> None:
    """300 logs of 400 decisions: coverage has a standard error of 1.3 %, so 95 % ± 4 of them; the difference too."""
    covered = {(kind, name): 0 for kind in ("value", "difference") for name in ("IPS", "SNIPS", "DR")}
    for seed in range(300):
        judged = evaluate(simulated(400, 1000 + seed), Table(TARGET)).policies["table"]
        for name, interval in judged.estimates.items():
            covered["value", name] += interval.low <= TRUTH <= interval.high
        for name, interval in judged.differences.items():
            covered["difference", name] += interval.low <= TRUTH - LOGGED_TRUTH <= interval.high
    for key, count in covered.items():
        assert abs(count / 300 - 0.95) < 4 * (0.95 * 0.05 / 300) ** 0.5, (key, count / 300)


def test_a_log_of_k_copies_is_worth_no_more_than_one_when_its_rows_belong_to_one_user() -> None:
    log = simulated(500, 3)
    copies = Interactions.cat([log.rows] * 4)
    copies = replace(copies, episode=torch.arange(2000), user_id=torch.arange(500).repeat(4))
    once = evaluate(log, Table(TARGET), estimators=["IPS", "SNIPS"]).policies["table"].estimates
    result = evaluate(MemoryLog(SPEC, copies), Table(TARGET), estimators=["IPS", "SNIPS"])
    for name, estimate in result.policies["table"].estimates.items():
        assert estimate.value == pytest.approx(once[name].value)
        assert estimate.standard_error == pytest.approx(once[name].standard_error)
    assert result.clusters == 500


def test_rows_without_a_known_reward_are_left_out_and_counted() -> None:
    log = simulated(1000, 4)
    known = torch.arange(1000) % 3 > 0
    reward = torch.where(known[:, None], log.rows.response.reward, torch.nan)
    holed = replace(log.rows, response=replace(log.rows.response, reward=reward, reward_known=known))
    result = evaluate(MemoryLog(SPEC, holed, 100), Table(TARGET))
    clean = evaluate(MemoryLog(SPEC, log.rows[known]), Table(TARGET))
    assert (result.decisions, result.excluded) == (666, 334)
    for name, estimate in result.policies["table"].estimates.items():
        assert estimate.value == pytest.approx(clean.policies["table"].estimates[name].value, rel=1e-9)
    nothing = replace(holed, response=replace(holed.response, reward_known=torch.zeros(1000, dtype=torch.bool)))
    with pytest.raises(InputError, match="no decision of this log has a known reward"):
        evaluate(MemoryLog(SPEC, nothing), Table(TARGET))


def test_verdicts() -> None:
    large = simulated(20_000, 5)
    better = evaluate(large, {"good": Table(TARGET)})
    assert better.better
    assert better.verdict.startswith("good is better than what was logged: +")
    assert better.verdict.endswith(" %")
    worse = evaluate(large, {"bad": Table(TARGET.roll(1, 0))})
    assert not worse.better
    assert worse.verdict.startswith("bad is worse than what was logged: -")
    both = evaluate(large, {"good": Table(TARGET), "bad": Table(TARGET.roll(1, 0))})
    assert not both.better
    assert both.policies["good"].better
    assert "; bad is worse" in both.verdict
    swapped = evaluate(large, {"good": Table(TARGET), "bad": Table(TARGET.roll(1, 0))}, baseline="bad")
    assert swapped.better
    assert swapped.verdict.startswith("good is better than bad: +")
    assert swapped.policies["bad"].differences["DR"].value == 0


def test_same_policy_is_not_better() -> None:
    same = evaluate(simulated(500, 6), Table(LOGGED, "copy"))
    assert not same.better
    # IPS of the logged policy itself is the mean reward, with no difference at all.
    assert same.policies["copy"].differences["IPS"].value == pytest.approx(0, abs=1e-12)
    assert same.verdict == "copy does what the logged policy did (every weight is 1): there is nothing to compare"
    other = evaluate(simulated(500, 6), {"copy": Table(LOGGED), "other": Table(TARGET)}, baseline="other")
    assert "every weight is 1" not in other.verdict


def test_one_decision_is_judged_without_a_number_that_does_not_exist() -> None:
    one = evaluate(simulated(1, 0), Table(TARGET))
    assert one.verdict.startswith("cannot tell whether table is better than what was logged: the log is worth only 1.0")
    weighed = next(note for note in one.notes if "the mean weight is" in note)
    assert "nan" not in weighed


@pytest.mark.parametrize("estimators", ["IPS", "DR"])
def test_what_is_no_policy_is_refused(estimators: str) -> None:
    """A list, a name, a policy that answers in another shape: said before or in the words of the contract."""

    def judge(policies: object) -> None:
        evaluate(simulated(50, 0), policies, estimators=estimators)  # type: ignore[arg-type]

    class Answers(Table):
        def __init__(self, answer: object) -> None:
            self.answer = answer

        def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
            return self.answer  # type: ignore[return-value]

    with pytest.raises(InputError, match=r"policy 'policy' is of type list, without .*several go into a dict by name"):
        judge([Table(TARGET)])
    with pytest.raises(InputError, match=r"policy 'a' is of type str, without a method propensity\("):
        judge({"a": "random"})
    for answer in (torch.full((50,), 0.5), np.full((50, 1), 0.5), 0.5):
        with pytest.raises(
            InputError, match=r"Answers.propensity returned .*tensor of the slate's shape, here \(50, 1\)"
        ):
            judge({"a": Answers(answer)})
    with pytest.raises(InputError, match=r"log is of type str: open a log's folder first"):
        evaluate("logs/mine", Table(TARGET))  # type: ignore[arg-type]


def test_as_many_decisions_as_the_verdict_asks_for_tell_the_difference_four_times_in_five() -> None:
    """200 logs of that size: 80 % of them ± 4 · 2.8 %."""
    slight = Table(0.9 * LOGGED + 0.1 * TARGET)
    large = evaluate(simulated(100_000, 8), slight)
    error = large.policies["table"].differences["DR"].standard_error * (100_000 / 50) ** 0.5  # of 50 decisions
    truth = 0.1 * (TRUTH - LOGGED_TRUTH)
    good = Diagnostics(50, 1, 0.1, 2, 1, 0.01)
    better, words = verdict("x", "logged", Interval.of(truth, error), large.logged, good, 50)
    assert not better
    assert words.startswith("cannot tell whether x is better than what was logged: -")
    needed = 50 + int(words.split("roughly ")[1].split(" more decisions")[0].replace(",", ""))
    assert needed == pytest.approx(50 * ((1.95996 + 0.84162) * error / truth) ** 2, rel=0.06)  # two digits
    found = sum(evaluate(simulated(needed, 5000 + seed), slight).better for seed in range(200))
    assert abs(found / 200 - 0.8) < 4 * (0.8 * 0.2 / 200) ** 0.5, (needed, found)


def test_no_support_is_refused_and_little_support_is_not_judged() -> None:
    always = torch.zeros(2, ACTIONS, dtype=torch.float64)
    always[:, 3] = 1
    never = torch.tensor([[0.5, 0.3, 0.2, 0], [0.5, 0.3, 0.2, 0]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"'table' never shows what was logged: all 1000 weights are 0"):
        evaluate(simulated(1000, 7, never), Table(always))
    half = evaluate(simulated(5000, 7, never), Table(0.5 * always + 0.5 * never))
    diagnostics = half.policies["table"].diagnostics
    assert diagnostics.mean_weight == pytest.approx(0.5)
    assert diagnostics.off_support
    assert not half.better
    assert "the policy shows what the log never shows" in half.verdict
    few = evaluate(simulated(20, 7), Table(TARGET))
    assert not few.better
    assert "worth only" in few.verdict
    assert any("worth only" in w for w in few.to_json()["diagnostics"]["table"]["warnings"])
    assert any(note.startswith("table: the log is worth only") for note in few.notes)


def test_a_baseline_that_the_log_does_not_support_is_no_baseline() -> None:
    never = torch.tensor([[0.5, 0.3, 0.2, 0], [0.5, 0.3, 0.2, 0]], dtype=torch.float64)
    off = 0.7 * torch.eye(ACTIONS, dtype=torch.float64)[[3, 3]] + 0.3 * never
    log, policies = simulated(20_000, 7, never), {"near": Table(never), "off": Table(off)}
    result = evaluate(log, policies, baseline="off", estimators=["IPS"])
    assert result.policies["near"].differences["IPS"].low > 0  # of no meaning: 0.7 of `off` is nowhere in the log
    assert not result.better
    assert result.verdict.startswith("cannot tell whether near is better than off, because of off: the mean weight is")


def test_a_log_of_sessions_says_that_later_states_are_not_in_it() -> None:
    def notes(rows: Interactions) -> str:
        return "\n".join(evaluate(MemoryLog(SPEC, rows, 50), Table(TARGET)).notes)

    rows = simulated(100, 0).rows
    words = "mean rewards of single decisions, in the states that the logged policy led to"
    assert words not in notes(rows)
    assert words not in notes(replace(rows, user_id=rows.episode // 5))  # visits of users are no sessions
    assert words in notes(replace(rows, episode=rows.episode // 5, step=rows.episode % 5))


def test_holes_in_logs_of_single_items() -> None:
    """A hole has probability 1 where no candidate is left and 0 elsewhere, with DR and without."""
    rows = simulated(500, 11).rows
    ids, slate, propensity = rows.observation.item_ids.clone(), rows.decision.slate.clone(), rows.decision.propensity
    slate[:20] = -1
    ids[:10] = -1  # nothing to show in the first ten rows; in the next ten nothing was shown
    propensity = torch.where(slate >= 0, propensity, 1.0)
    reward = torch.where(slate >= 0, rows.response.reward, 0.0)
    rows = replace(
        rows,
        observation=replace(rows.observation, item_ids=ids),
        decision=Decision(slate, propensity),
        response=replace(rows.response, reward=reward, clicked=reward > 0.5),
    )

    class Holed(Table):
        def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
            shown = super().propensity(observation, slate.clamp(min=0), explore)
            return torch.where(slate >= 0, shown, (~observation.mask.any(1, keepdim=True)).double())

    log = MemoryLog(SPEC, rows)
    every, ips = evaluate(log, Holed(TARGET)), evaluate(log, Holed(TARGET), estimators=["IPS"])
    assert every.policies["table"].estimates["IPS"] == ips.policies["table"].estimates["IPS"]
    assert every.policies["table"].diagnostics == ips.policies["table"].diagnostics
    weights = Holed(TARGET).propensity(rows.observation, slate)[:, 0] / propensity[:, 0]
    assert weights[:20].tolist() == [1.0] * 10 + [0.0] * 10
    assert ips.policies["table"].diagnostics.mean_weight == pytest.approx(float(weights.mean()))


def test_deterministic_logs_are_noted() -> None:
    log = simulated(1000, 9)
    sure = replace(log.rows, decision=replace(log.rows.decision, propensity=torch.ones(1000, 1, dtype=torch.float64)))
    assert any("propensity is 1" in note for note in evaluate(MemoryLog(SPEC, sure), Table(TARGET)).notes)


def test_masked_candidates_and_policies_that_do_not_add_up() -> None:
    log = simulated(400, 10)
    ids = log.rows.observation.item_ids.clone()
    ids[log.rows.decision.slate[:, 0] != 0, 0] = -1  # candidate 0 may be shown only where it was
    log.rows = replace(log.rows, observation=replace(log.rows.observation, item_ids=ids))

    class Uniform(Table):
        def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
            assert bool(observation.mask.gather(1, slate).all())  # never asked about what may not be shown
            return 1 / observation.mask.sum(1, keepdim=True).double()

    evaluate(log, Uniform(TARGET))
    with pytest.raises(InputError, match=r"propensities of all candidates sum to 0.5 in row 0"):
        evaluate(simulated(100, 0), Table(TARGET / 2))


def test_bad_arguments() -> None:
    log = simulated(100, 0)
    with pytest.raises(InputError, match="unknown baseline 'logd': did you mean 'logged'"):
        evaluate(log, Table(TARGET), baseline="logd")
    with pytest.raises(InputError, match="unknown estimator 'SNIP': did you mean"):
        evaluate(log, Table(TARGET), estimators=["SNIP"])
    with pytest.raises(InputError, match="none of them 'logged'"):
        evaluate(log, {"logged": Table(TARGET)})


def test_json_has_what_the_command_line_promises() -> None:
    values = evaluate(simulated(2000, 0), {"a": Table(TARGET), "b": Table(LOGGED)}).to_json()
    json.dumps(values, allow_nan=False)
    assert next(iter(values)) == "verdict"
    for name in ("a", "b"):
        assert set(values["policies"][name]) == {"IPS", "SNIPS", "DR"}
        for estimate in values["policies"][name].values():
            assert {"value", "low", "high", "effective_sample_size"} <= set(estimate)
            assert estimate["low"] < estimate["value"] < estimate["high"]


def test_slates_of_two_in_a_simulated_world() -> None:
    """A rule with an exploration floor, judged on a random log of first decisions; truth: running it."""
    env = make("interest-evolution", users=30_000, slate_size=2, candidates=3, seed=0)
    policy = env.rule("random", 1)
    rows = env.step(policy.act(env.observation))
    target = env.rule("myopic", 2, explore_floor=0.2)
    result = evaluate(MemoryLog(env.spec, rows, 10_000), target, explore=True)
    judged = result.policies["myopic"]
    assert set(judged.estimates) == {"IPS", "SNIPS"}
    assert judged.judged_by == "SNIPS"
    assert any(note.startswith("no DR") for note in result.notes)
    fresh = make("interest-evolution", users=30_000, slate_size=2, candidates=3, seed=99)
    truth = fresh.step(target.act(fresh.observation)).response.total_reward
    error = float(truth.std()) / len(truth) ** 0.5
    for name, estimate in judged.estimates.items():
        assert abs(estimate.value - float(truth.mean())) < 4 * (estimate.standard_error**2 + error**2) ** 0.5, name
    with pytest.raises(InputError, match="DR needs slates of one item, this log shows 2"):
        evaluate(MemoryLog(env.spec, rows), target, estimators=["DR"])


def test_a_greedy_rule_in_a_simulated_world_of_single_items() -> None:
    env = make("interest-evolution", users=20_000, slate_size=1, candidates=5, seed=0)
    rows = env.step(env.rule("random", 1).act(env.observation))
    target = env.rule("myopic", 2)
    judged = evaluate(MemoryLog(env.spec, rows), target).policies["myopic"]
    assert judged.diagnostics.support == pytest.approx(0.2, abs=0.02)
    fresh = make("interest-evolution", users=20_000, slate_size=1, candidates=5, seed=99)
    truth = fresh.step(target.act(fresh.observation, explore=False)).response.total_reward
    error = float(truth.std()) / len(truth) ** 0.5
    for name, estimate in judged.estimates.items():
        assert abs(estimate.value - float(truth.mean())) < 4 * (estimate.standard_error**2 + error**2) ** 0.5, name
