# %% [markdown]
# # Contextual bandits
#
# What most teams deploy first: a recommender that learns from what it shows, one decision at a time, and tries what it
# does not know. From a coin to confidence bounds, Thompson sampling and SquareCB; then what no bandit can learn. It
# runs in under half a minute.
#
# Exercises ask for a number: put it in the place of `None`, run the cell, and it says whether it is right; the
# solutions are at the end.

# %%
# %matplotlib inline
import math

import torch
from matplotlib.figure import Figure

import slatewise as sw
from slatewise import plots
from slatewise.sessions import play

torch.set_num_threads(1)
COLOURS = ("#9aa3ad", "#c8553d", "#2f7d4f", "#3b6fb6", "#8a5fb0")


def check(answer, solution):
    """Say whether an answer is right."""
    if answer is None:
        print("Not answered yet.")
        return
    assert abs(answer - solution) < 0.01, f"{answer} is not it: think again"
    print("Right.")


def axes_of(width=5.5, height=3.0, **labels):
    """Return a figure and axes with labels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**labels)
    return figure, axes


# %% [markdown]
# ## A round
#
# A user comes, and with the user a **context**: twenty numbers. We show one of ten items; the user likes it or does
# not. Then comes another user. Nothing that we show changes who comes next: that is what makes it a *bandit*, after the
# slot machine, and not the whole of reinforcement learning.

# %%
env = sw.make("linear-bandit", users=100, seed=0)  # 100 rounds at a time
it = env.step(env.rule("random").act(env.observation))
print("context", [round(value, 2) for value in it.observation.user[0, :4].tolist()], "…")
print("shown  ", it.decision.slate[:12, 0].tolist(), "…")
print("reward ", it.response.reward[:12, 0].int().tolist(), "…")

# %% [markdown]
# In this world the mean reward of an item is ½ + ½ ⟨context, θ⟩, and every item has a direction θ of its own, which
# we are not told. Being a simulation, it knows what each item would have earned on average, so it can tell how much a
# decision lost against the best one. That is **regret**: 0 for who knows everything, and the less of it, the better.
#
# **Exercise 1.** Choices at random earn 0.500 a round, the best ones 0.675. How much regret do random choices gather in
# 1,000 rounds? (To the nearest whole number: call `round` on it if you compute it.)

# %%
references = env.references
lost_at_random = references.ceiling.mean - references.rules["random"].mean
answer_1 = None
check(answer_1, round(1000 * lost_at_random))


# %% [markdown]
# ## Every user the same?
#
# The simplest learner counts: what did each item earn on average? Show the best, but with probability ε show any, so
# that the averages become right. That is **ε-greedy**; here is what it costs, and the same idea with a linear model of
# the context in the place of averages (`linucb` with α = 0 is the greedy one; the coin is `explore_floor`).


# %%
def regret_of(name, world, rounds, **settings):
    """Return the cumulative regret of a new agent, after every batch of users."""
    world.reset(world.seed)
    agent = sw.make_agent(name, world.spec, world.choice, 0, **settings)
    lost = []
    for _ in range(rounds // world.users):
        best = world.best()
        decision = agent.act(world.observation)
        lost.append(float((best - world.expected_reward(decision.slate)).sum()))
        agent.observe(world.step(decision))
        agent.update()
    return torch.tensor(lost).cumsum(0), agent


def regret_picture(curves, world, **labels):
    """Return a figure of regret curves."""
    figure, axes = axes_of(xlabel="rounds", ylabel="regret so far", **labels)
    for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
        rounds = world.users * torch.arange(1, len(curve) + 1)
        axes.plot(rounds, curve, color=colour, lw=2, label=label)
    axes.legend(frameon=False)
    return figure


counting, counter = regret_of("epsilon-greedy", env, 40_000, epsilon=0.1)
greedy, _ = regret_of("linucb", env, 40_000, alpha=0.0)
coin, _ = regret_of("linucb", env, 40_000, alpha=0.0, explore_floor=0.1)
curves = {
    "ε-greedy, averages of items": counting,
    "linear model, no exploration": greedy,
    "ε-greedy, linear model": coin,
}
regret_picture(curves, env)

# %% [markdown]
# Averages learn nothing at all here: over all users, every item is as good as every other. What matters is *who* asks.
#
# And a model alone is not enough: the linear one without exploration lies on the same line. It shows one item
# to everybody, likes what comes of it, and never hears of the others. **Who never tries never learns.** With a coin it
# learns, but a coin goes on to cost the same for ever: its curve never becomes flat.
#
# ## Try what you do not know: LinUCB
#
# A linear model knows more than a guess: it knows how sure it is. With λI + Σ x xᵀ = A over the contexts where an item
# was shown, the guess for a new context x is off by about √(xᵀ A⁻¹ x). **LinUCB** shows the item whose *upper* end,
# guess + α √(xᵀ A⁻¹ x), is highest. Either it is good, or we learn that it is not.

# %%
young = sw.make_agent("linucb", env.spec, alpha=0.5)
env.reset(0)
for _ in range(10):
    young.observe(env.step(young.act(env.observation)))
explained = young.explanation(env.observation)
guess, unsure = explained.score[0], 0.5 * explained.uncertainty[0]
true = env.means(env.state["context"], env.candidates["item"])[0]
figure, axes = axes_of(xlabel="item", ylabel="reward", title="one user, after 1,000 rounds")
axes.errorbar(range(10), guess, unsure, fmt="o", color=COLOURS[3], capsize=3, label="guess ± α √(xᵀ A⁻¹ x)")
axes.plot(range(10), true, "x", color=COLOURS[1], label="truth")
shown = int(young.act(env.observation).slate[0, 0])
axes.plot(shown, guess[shown] + unsure[shown], "v", color="#22272e", label="shown: the highest upper end")
axes.set_xticks(range(10))
axes.set_ylim(top=float((guess + unsure).max()) + 0.7)
axes.legend(frameon=False, fontsize=8, loc="upper right")
figure

# %% [markdown]
# **Exercise 2.** An item was never shown, so A = λI with λ = 1. The context has length 1, and the model has an
# intercept, a feature that is always 1. How large is α √(xᵀ A⁻¹ x) with α = 0.5?

# %%
new = sw.make_agent("linucb", env.spec, alpha=0.5)
answer_2 = None
check(answer_2, float(new.bonus(env.observation)[0, 0]))

# %% [markdown]
# ## Believe one draw: Thompson sampling
#
# Rather than the upper end, draw what the items *might* be worth from what is known (the posterior), and show the best
# of that draw. An item that is probably bad but might be best is shown as often as it might be best. It is random, so
# its log says with which probability each item was shown, and such a log can be
# [evaluated](../off-policy.md) for other policies later; LinUCB's cannot.
#
# ## The larger the gap, the rarer: SquareCB
#
# **SquareCB** only needs predictions. The best of C items gets what the others leave, and each of the others
#
# > 1 / (C + γ · how far its prediction is below the best),
#
# with γ growing as the predictions become right.
#
# **Exercise 3.** Three items are predicted to earn 0.9, 0.8 and 0.5; γ = 10. With which probability is the first shown?

# %%
answer_3 = None
check(answer_3, 1 - 1 / (3 + 10 * 0.1) - 1 / (3 + 10 * 0.4))

# %%
agents = {}
curves = {"ε-greedy, linear model": coin}
for label, name, settings in (
    ("LinUCB", "linucb", {"alpha": 0.5}),
    ("Thompson sampling", "lints", {}),
    ("SquareCB", "squarecb", {}),
):
    curves[label], agents[label] = regret_of(name, env, 40_000, **settings)
assert all(float(curve[-1]) < 0.4 * 40_000 * lost_at_random for curve in curves.values())
for label, curve in curves.items():
    late = float(curve[-1] - curve[-51]) / 5000
    print(f"{label}: regret {float(curve[-1]):.0f}, in the last 5,000 rounds {late:.4f} a round")
regret_picture(curves, env)

# %% [markdown]
# Look at the slopes at the end: the coin's line goes on, for a tenth of all rounds are still random; the others keep
# bending. One seed on one problem says little about which of them is better; the tables of the
# [benchmarks](../benchmarks.md) have several.
#
# The same user, three ways to explore: probabilities of the first slot, from `agent.explain`.

# %%
figure = Figure(figsize=(8, 2.4), layout="constrained")
for axes, (label, agent) in zip(figure.subplots(1, 3, sharey=True), agents.items(), strict=True):
    axes.bar(range(10), agent.explain(env.observation)["propensity"][0], color=COLOURS[3])
    axes.plot(range(10), env.means(env.state["context"], env.candidates["item"])[0], "x", color=COLOURS[1])
    axes.set_title(label, fontsize=10)
    axes.set_xlabel("item (× its true mean reward)", fontsize=8)
    axes.set_xticks(range(10))
    axes.spines[["top", "right"]].set_visible(False)
figure

# %% [markdown]
# ## The wheel: when the fortune is rare
#
# Contexts are points of a disk. Item 0 always pays 1.2. Items 1 to 4 pay 1, but each pays **50** on the rim of its
# quarter, outside of a hub of radius δ. Who is content with 1.2 never finds the fortune.

# %%
wheel = sw.make("wheel-bandit", users=100, seed=0, delta=0.9)
curves, pilots = {}, {}
for label, name, settings in (
    ("no exploration", "linucb", {"alpha": 0.0}),
    ("LinUCB, α 1", "linucb", {"alpha": 1.0}),
    ("LinUCB, α 10", "linucb", {"alpha": 10.0}),
    ("Thompson sampling", "lints", {}),
    ("SquareCB", "squarecb", {}),
):
    curves[label], pilots[label] = regret_of(name, wheel, 5000, **settings)
regret_picture(curves, wheel, title="wheel, δ = 0.9")

# %%
points = sw.make("wheel-bandit", users=3000, seed=1, delta=0.9)
context = points.observation.user
figure = Figure(figsize=(9, 2.5), layout="constrained")
panels = {"optimal": points.rule("optimal"), **{label: pilots[label] for label in list(pilots)[:1] + list(pilots)[2:]}}
for axes, (label, policy) in zip(figure.subplots(1, 5), panels.items(), strict=True):
    choice = policy.act(points.observation).slate[:, 0]
    for item in range(5):
        at = context[choice == item]
        axes.scatter(at[:, 0], at[:, 1], s=2, color=COLOURS[item], label=f"item {item}")
    axes.set_title(label, fontsize=9)
    axes.set_aspect("equal")
    axes.axis("off")
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, markerscale=4)
figure

# %% [markdown]
# Grey is the safe item. A straight line cannot draw a rim, so the linear agents colour most of a quarter: they give up
# 0.2 in the hub to have the fortune outside, and rightly. Without exploration, one quarter's fortune was never found.
# How wide to look depends on the size of the rewards: rewards of 50 want a larger α than rewards of 1.
#
# **Exercise 4.** With δ = 0.5 a share δ² of the contexts is in the hub. What does the best policy earn in a round?

# %%
answer_4 = None
check(answer_4, sw.make("wheel-bandit", users=1, delta=0.5).references.ceiling.mean)

# %% [markdown]
# ## What no bandit learns
#
# Now a world that remembers: *long-term satisfaction*. Items are between kale (sweetness 0) and chocolate (1); sweet
# ones engage more, but chocolate spoils the user's mood, and engagement lives on the mood. A session has ten steps.
# (*Chocolate or kale* takes it apart.) What does a bandit learn here?

# %%
school = sw.make("long-term-satisfaction", users=256, seed=0, variant="sweetness")
many = sw.make("long-term-satisfaction", users=1000, seed=1, variant="sweetness")
returns = {name: sw.evaluate(many.rule(name), many, episodes=1000).mean for name in ("sweetest", "random")}
bandit = sw.make_agent("linucb", school.spec, school.choice, 0)
sw.train(bandit, school, steps=50_000, progress=False)
returns["LinUCB"] = sw.evaluate(bandit, many, episodes=1000).mean
returns["optimum"] = many.references.ceiling.mean
print({name: round(value, 1) for name, value in returns.items()})

# %% [markdown]
# **Chocolate.** And it can say why:

# %%
explained = bandit.explanation(many.observation)
print("\n".join(explained.table(user=0, strongest=2).splitlines()[:6]), "\n…")
slates = bandit.act(many.observation, explore=False).slate
sweetest = many.observation.items[:, :, 0].argmax(1)
always = float((slates[:, 0] == sweetest).double().mean())
print(f"it shows the sweetest of twenty items to {always:.0%} of the users")
assert always > 0.99
assert returns["LinUCB"] < 0.7 * returns["random"]

# %%
figure, axes = axes_of(height=2.4, xlabel="return of a session")
for row, (name, value) in enumerate(sorted(returns.items(), key=lambda pair: pair[1])):
    axes.barh(row, value, color=plots.GOOD if name == "optimum" else "#9aa3ad" if name == "random" else plots.POOR)
    axes.text(value + 2, row, f"{value:.0f}", va="center", fontsize=9)
axes.set_yticks(range(len(returns)), sorted(returns, key=returns.__getitem__))
figure

# %%
plots.satisfaction_session(play(bandit, many), "LinUCB", (40, 10))

# %% [markdown]
# By its own measure it is perfect. Its prediction is right: the sweetest item engages most *now*, whatever the mood,
# so no other choice would have less regret in this round. But what it shows makes the next rounds, and regret in the
# bandit's sense does not count those. It ends at little more than half of what random choices earn. More data does
# not help, nor a better model, nor more exploration: the question is wrong.
#
# So: a bandit where what you show does not change who comes back, and it is quick, and you know your regret. Where
# it does, ask for the return of the session: `SlateQ` in *Chocolate or kale*.
#
# **Exercise 5.** Engagement is exp(5 · sweetness · satisfaction). In this round, how much more does chocolate
# (sweetness 1) earn than kale (0) from a user whose satisfaction has fallen to 0.3?

# %%
answer_5 = None
check(answer_5, math.exp(5 * 1 * 0.3) - math.exp(0))

# %% [markdown]
# ## Sources
#
# LinUCB: Li et al. 2010, [arXiv 1003.0146](https://arxiv.org/abs/1003.0146). Thompson sampling: Agrawal & Goyal 2013,
# [arXiv 1209.3352](https://arxiv.org/abs/1209.3352). SquareCB: Foster & Rakhlin 2020,
# [arXiv 2002.04926](https://arxiv.org/abs/2002.04926). The wheel: Riquelme et al. 2018,
# [arXiv 1802.09127](https://arxiv.org/abs/1802.09127).
#
# ## Solutions
#
# 1. 1,000 · (0.6754 − 0.5000) = 175.
# 2. xᵀx = 1 + 1 with the intercept: 0.5 · √2 = 0.71.
# 3. The others get 1/4 and 1/7: 1 − 0.25 − 0.143 = 0.607.
# 4. 1.2 · 0.25 + 50 · 0.75 = 37.8.
# 5. exp(1.5) − 1 = 3.48.

# %%
check(175, round(1000 * lost_at_random))
check(0.7071, float(new.bonus(env.observation)[0, 0]))
check(0.607, 1 - 1 / (3 + 10 * 0.1) - 1 / (3 + 10 * 0.4))
check(37.8, sw.make("wheel-bandit", users=1, delta=0.5).references.ceiling.mean)
check(3.48, math.exp(1.5) - 1)
