# %% [markdown]
# # Chocolate or kale
#
# Why a recommender that always shows what works best ends up worse than one that shows things at random. We take a
# simulated user apart, step through a session by hand, and watch greed lose. It runs in under a minute.
#
# *The mouse* explains the words (state, action, reward, return, policy). Exercises ask for a number: put it in the
# place of `None`; the solutions are at the end.

# %%
# %matplotlib inline
import math

import torch
from matplotlib.figure import Figure

import slatewise as sw
from slatewise import plots
from slatewise.ceilings import optimum, plan
from slatewise.policies import Rule
from slatewise.sessions import play
from slatewise.slates import top_k

torch.set_num_threads(1)
WORLD = {"variant": "sweetness"}
CHOCOLATE, KALE = plots.POOR, plots.GOOD


def check(answer, solution):
    """Say whether an answer is right."""
    if answer is None:
        print("Not answered yet.")
        return
    assert abs(answer - solution) < 0.01, f"{answer} is not it: think again"
    print("Right.")


def axes_of(width=5.5, height=2.8, **labels):
    """Return a figure and axes with labels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**labels)
    return figure, axes


# %% [markdown]
# ## A user and twenty items
#
# Each item has one feature, how sweet it is: 1 is pure chocolate (clickbait), 0 is pure kale. At every step the user is
# offered one of twenty, ten of each kind, and takes it.

# %%
env = sw.make("long-term-satisfaction", users=1, seed=0, **WORLD)
x = env.observation.items[0, :, 0]
figure, axes = axes_of(height=2.0, ylabel="sweetness", xlabel="item")
axes.bar(range(20), x.tolist(), color=[CHOCOLATE if value > 0.5 else KALE for value in x])
axes.set_xticks(range(20))
figure

# %% [markdown]
# ## One step by hand
#
# The user has a mood that the recommender does not see: **satisfaction**, between 0 and 1. It follows from what was
# eaten lately, the *exposure*:
#
# - satisfaction = σ(0.9 · exposure), σ the logistic function: 0.5 at an exposure of 0, near 1 far above;
# - **engagement**, the reward, = exp(5 · sweetness · satisfaction): the sweeter the item *and the happier the user*,
#   the more;
# - then exposure ← 0.7 · exposure − 2 · (sweetness − 0.5): chocolate lowers it, kale lifts it, and the past fades.
#
# A session is ten steps and begins at exposure 1. Show the sweetest item, and compute it along:

# %%
exposure, sweetest = 1.0, int(x.argmax())
satisfaction = 1 / (1 + math.exp(-0.9 * exposure))
engagement = math.exp(5 * float(x[sweetest]) * satisfaction)
exposure = 0.7 * exposure - 2 * (float(x[sweetest]) - 0.5)
print(f"by hand: satisfaction {satisfaction:.3f}, engagement {engagement:.2f}, exposure afterwards {exposure:.3f}")

it = env.step(torch.tensor([[sweetest]]))
simulated = float(it.response.total_reward), float(env.state["exposure"])
print(f"simulated: engagement {simulated[0]:.2f}, exposure afterwards {simulated[1]:.3f}")
assert abs(engagement - simulated[0]) < 0.01
assert abs(exposure - simulated[1]) < 0.001
pleased = float(env.hidden()["satisfaction"])

# %% [markdown]
# **Exercise 1.** After this step, what is the user's satisfaction? (It was 0.711 before.)

# %%
answer_1 = None
check(answer_1, pleased)

# %% [markdown]
# ## Always chocolate, always kale
#
# Two simple policies, for a thousand users.

# %%
many = sw.make("long-term-satisfaction", users=1000, seed=1, **WORLD)


def by_step(policy):
    """Return mean engagement and satisfaction at every step of a session, 10 each."""
    many.reset(many.seed)
    rows = []
    for _ in range(10):
        happy = float(many.hidden()["satisfaction"].mean())
        rows.append((float(many.step(policy.act(many.observation)).response.total_reward.mean()), happy))
    return torch.tensor(rows).T


def slope(values):
    """Return the slope of the straight line through values at 1, 2, 3, … (least squares)."""
    steps = torch.arange(len(values)) - (len(values) - 1) / 2
    return float((steps * values).sum() / (steps**2).sum())


lines = {"always chocolate": by_step(many.rule("sweetest")), "always kale": by_step(many.rule("kalest"))}
for name, (engagement, happy) in lines.items():
    print(f"{name}: engagement {float(engagement.sum()):.1f} in all, its slope {slope(engagement):+.2f} a step, "
          f"of satisfaction {slope(happy):+.3f}")  # fmt: skip

# %%
figure = Figure(figsize=(7.5, 2.8), layout="constrained")
for axes, row, label in zip(figure.subplots(1, 2), (0, 1), ("engagement", "satisfaction (hidden)"), strict=True):
    for (name, line), colour in zip(lines.items(), (CHOCOLATE, KALE), strict=True):
        axes.plot(range(1, 11), line[row], color=colour, lw=2, marker="o", ms=4, label=name)
    axes.set(xlabel="step of the session", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
figure.axes[0].legend(frameon=False)
figure

# %% [markdown]
# Chocolate earns a lot, once: its engagement slopes **down**, because the mood that it lives on is eaten up. Kale
# engages next to nobody, but satisfaction slopes **up**. Each step alone, chocolate wins; it is never wrong about the
# next step.
#
# ## First kale, then chocolate
#
# So save up first: n steps of kale, then chocolate to the end.


# %%
def kale_first(n):
    """Return the policy that shows kale for n steps, then chocolate."""

    def slate(observation, k):
        step = (observation.user[:, 2] + 0.5) * 10  # what is seen: the last item, its engagement, the clock
        sign = torch.where(step < n - 0.5, -1.0, 1.0).unsqueeze(1)
        return top_k(sign * observation.items[:, :, 0], observation.mask, k)

    return Rule(f"kale for {n}", slate, slate_size=1)


saving = [sw.evaluate(kale_first(n), many, episodes=1000).mean for n in range(11)]
random = sw.evaluate(many.rule("random"), many, episodes=1000).mean
figure, axes = axes_of(xlabel="steps of kale before the chocolate", ylabel="return of a session")
axes.bar(range(11), saving, color=[CHOCOLATE] + [KALE] * 10)
axes.axhline(random, color="#22272e", lw=1, ls=":")
axes.text(10.6, random + 3, "random", ha="right", fontsize=9)
figure

# %% [markdown]
# Even **random** beats always chocolate: it serves kale half of the time.
#
# **Exercise 2.** How many steps of kale are best before the chocolate?

# %%
answer_2 = None
check(answer_2, max(range(11), key=saving.__getitem__))

# %% [markdown]
# ## What most recommenders do
#
# They predict how much the user will engage with each item *now* and show the best. Let one learn, from scratch:

# %%
school = sw.make("long-term-satisfaction", users=256, seed=0, **WORLD)
supervised = sw.Supervised(school.spec, seed=0)
sw.train(supervised, school, steps=120_000, progress=False)
greedy = sw.evaluate(supervised, many, episodes=1000)
print(f"supervised {greedy.mean:.1f}, always chocolate {saving[0]:.1f}, random {random:.1f}")
assert greedy.mean < 0.7 * random

# %% [markdown]
# It learned well: it found out that chocolate engages most, and that is *true at every single step*. More data would
# not help it, nor a larger network. Its predictions are right and its question is wrong: it asks what the user does
# next, not what becomes of the session.
#
# This is why greed loses: **what it shows changes the user, and it does not count that.** An A/B test of one day would
# call it the winner.
#
# ## Asking the right question
#
# SlateQ asks for the return of the whole session, as the mouse does. It sees what the supervised one sees: the last
# item, how much it engaged, and the clock.

# %%
slateq = sw.SlateQ(school.spec, choice=school.choice, seed=0)
sw.train(slateq, school, steps=150_000, progress=False)
patient = sw.evaluate(slateq, many, episodes=1000)
print(f"SlateQ {patient.mean:.1f} after a few seconds of learning; random {random:.1f}")
assert patient.mean > 1.1 * random

# %% [markdown]
# How far is that from the best there is? This world is small enough to plan exactly, by dynamic programming with the
# true user: value iteration, as for the mouse, over exposure and time.

# %%
planned = plan(many)
print(f"the optimum: {planned.at_start():.1f}")
figure, axes = axes_of(xlabel="return of a session")
bars = {
    "always kale": (saving[10], KALE),
    "always chocolate": (saving[0], CHOCOLATE),
    "supervised": (greedy.mean, CHOCOLATE),
    "random": (random, "#9aa3ad"),
    "best kale first": (max(saving), KALE),
    "SlateQ": (patient.mean, KALE),
    "optimum": (planned.at_start(), "#5a6b8c"),
}
for row, (value, colour) in enumerate(sorted(bars.values())):
    axes.barh(row, value, color=colour)
    axes.text(value + 2, row, f"{value:.0f}", va="center", fontsize=9)
axes.set_yticks(range(len(bars)), sorted(bars, key=lambda name: bars[name][0]))
figure

# %% [markdown]
# One session of each, the same user. The supervised recommender serves chocolate to a user who is ever less pleased;
# the optimum keeps the user happy and takes chocolate when it pays.

# %%
top = 1.05 * max(play(optimum(env, planned), env).reward)
plots.satisfaction_session(play(supervised, env), "supervised", (top, 10))

# %%
plots.satisfaction_session(play(slateq, env), "SlateQ", (top, 10))

# %%
plots.satisfaction_session(play(optimum(env, planned), env), "optimum", (top, 10))

# %% [markdown]
# **Exercise 3.** At satisfaction 0.9, how much more does pure chocolate (sweetness 1) engage than pure kale (0)? Give
# the ratio, to two digits after the point.

# %%
answer_3 = None
check(answer_3, math.exp(5 * 1 * 0.9) / math.exp(0))

# %% [markdown]
# ## Where this comes from
#
# The model is RecSim's *long-term satisfaction* (Ie et al. 2019, [arXiv 1909.04847](https://arxiv.org/abs/1909.04847))
# with the constants of a public tutorial of 2022. Not every choice of constants has a dilemma: with RecSim's own,
# always showing chocolate *is* the optimum (`variant="recsim"`). Look before you believe a result.
#
# ## Solutions
#
# 1. The exposure afterwards is printed above, −0.179: σ(0.9 · −0.179) = 0.460.
# 2. Seven.
# 3. exp(4.5) = 90.02.

# %%
check(0.460, pleased)
check(7, max(range(11), key=saving.__getitem__))
check(90.02, math.exp(4.5))
