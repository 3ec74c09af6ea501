# %% [markdown]
# # The mouse
#
# Reinforcement learning in one sitting: what the words mean, how a machine learns what comes later, and what a mouse
# in a maze has to do with a recommender. You need Python and nothing else; everything here runs in under a minute.
#
# Exercises ask for a number. Put it in the place of `None`, run the cell, and it says whether it is right; the
# solutions are at the end.

# %%
# %matplotlib inline
import torch
from matplotlib.figure import Figure

import slatewise as sw
from slatewise.maze_pictures import picture, value_map, walk
from slatewise.mazes import value_iteration

torch.set_num_threads(1)
UP, RIGHT, DOWN, LEFT = range(4)


def check(answer, solution):
    """Say whether an answer is right."""
    if answer is None:
        print("Not answered yet.")
        return
    assert abs(answer - solution) < 0.01, f"{answer} is not it: think again"
    print("Right.")


def return_of(env, *ways):
    """Return the return of a new mouse that goes this way."""
    env.reset(env.seed)
    return sum(float(env.step(torch.tensor([[way]])).response.total_reward) for way in ways)


# %% [markdown]
# ## A mouse in a maze
#
# The mouse wants to get to the centre, the green rings. Cheese is good to have on the way, poison is bad.

# %%
env = sw.make("maze", users=1, seed=4)
maze = env.maze
picture(maze, int(env.state["place"]), title="The mouse, somewhere")

# %% [markdown]
# ## The words
#
# Let it take one step, down, and read what came of it. Everything in slatewise is a *batch*, many mice at
# once; here the batch is one mouse.

# %%
it = env.step(torch.tensor([[DOWN]]))
print("state        ", [n for n, on in zip(env.spec.user, it.observation.user[0], strict=True) if on])
print("actions      ", env.catalogue.ids)
print("action       ", env.catalogue.ids[int(it.decision.slate[0, 0])])
print("reward       ", float(it.response.total_reward))
print("next state   ", [n for n, on in zip(env.spec.user, it.next_observation.user[0], strict=True) if on])
print("episode, step", int(it.episode), int(it.step))
print("terminated   ", bool(it.terminated), "  truncated", bool(it.truncated))

# %% [markdown]
# - **State**: all that matters for what comes. Here that is the cell *and which cheese is left*, because cheese is
#   eaten once. (Without the cheese in it, the mouse could not know whether going back is worth anything.)
# - **Action**: what the mouse can do, one of four moves. A move into a wall leaves it where it is.
# - **Reward**: what a step earns. −1 for every step, +10 for cheese, −10 for poison, +20 for the centre.
# - **Time step**: one action and what came of it.
# - **Episode**: all steps from a beginning to an end. In a recommender we call it a session.
# - **Return**: the sum of the rewards of an episode. This is what we want to be large, not the single reward.
# - **Terminated**: the episode is over for good, the mouse is at the centre. Nothing can come after it.
# - **Truncated**: *we* stopped watching, here after 100 steps. The mouse would have gone on. The difference matters
#   when the mouse learns, as you will see.
# - **Policy**: how the mouse chooses an action in a state.
#
# **Exercise 1.** A mouse takes this way through a small maze: what is its return?

# %%
small = sw.make("maze", users=1, layout="M.+\n..-\n..C\n")
picture(small.maze, int(small.state["place"]), title="right, right, down, down")

# %%
answer_1 = None
check(answer_1, return_of(small, RIGHT, RIGHT, DOWN, DOWN))

# %% [markdown]
# ## A mouse that knows nothing
#
# It moves at random. Some find the centre by luck; this one we stop watching after 100 steps (*truncated*).

# %%
lost = walk(env.rule("random", seed=1), env)
picture(maze, lost[-1], lost, title=f"random, after {len(lost) - 1} steps")

# %% [markdown]
# A thousand random mice earn:

# %%
thousand = sw.make("maze", users=1000, seed=0)
random = sw.evaluate(thousand.rule("random"), thousand, episodes=1000)
print(f"mean return {random.mean:.1f} ± {random.standard_error:.1f}, after {random.mean_length:.0f} steps on average")

# %% [markdown]
# ## What is a cell worth?
#
# If somebody knows the maze, nothing needs to be tried. The **value** of a state is the return that the best mouse
# still gets from there. It obeys one equation, Bellman's: the value of a state is the best, over the four moves, of
#
# > the reward of the move + the value of where it leads.
#
# The centre has value 0, because nothing comes after it. Begin with 0 everywhere and apply the equation again and
# again: that is **value iteration**. See how what is known about the centre and the cheese spreads, one step a sweep.

# %%
ended = maze.cell(maze.following) == maze.centre
value, sweeps = torch.zeros(len(maze.following)).double(), {}
for sweep in range(1, 61):
    move_values = maze.reward + torch.where(ended, 0.0, value[maze.following])  # [states, moves]
    value = move_values.amax(1)
    sweeps[sweep] = move_values

assert torch.allclose(sweeps[60], value_iteration(maze))  # the same, until nothing changes any more

# %%
value_map(maze, sweeps[1], title="after 1 sweep: only what lies next door")

# %%
value_map(maze, sweeps[5], title="after 5 sweeps")

# %%
value_map(maze, sweeps[60], title="settled: the value of every cell, and the best moves")

# %% [markdown]
# Follow the arrows from the upper left: they lead *away* from the centre at first. The way past the poison is short
# and costs 10; the way over the cheese is long and pays. When the cheese is eaten the state is another one, and so are
# the arrows:

# %%
value_map(maze, sweeps[60], left=0, title="no cheese left: straight home, around the poison")

# %%
best = walk(env.rule("optimal"), env)
picture(maze, best[-1], best, title=f"the best way: {len(best) - 1} steps, both cheeses")

# %% [markdown]
# **Exercise 2.** The mouse is at the far left of this corridor. What is the value of its cell?

# %%
corridor = sw.make("maze", users=1, layout="corridor").maze
picture(corridor, int(corridor.state(corridor.starts[0])))

# %%
answer_2 = None
check(answer_2, float(value_iteration(corridor)[corridor.starts].max()))

# %% [markdown]
# ## Learning it without knowing the maze: Q-learning
#
# A real mouse has no map. It only sees what happens. **Q-learning** keeps a number Q(state, action) for what an action
# is worth in a state, and after every step moves that number a part of the way (α, the learning rate) towards
#
# > the reward it got + the largest Q of the state it came to,
#
# which is Bellman's equation with what happened in the place of the map. If the episode *terminated* there, nothing
# comes after it and the second part is 0. If it was only *truncated*, something would have come: the second part stays.
#
# One step by hand, in the corridor. Everything is 0 at first; α is ½. The first mouse to reach the centre moves
# Q(last cell, right) from 0 half of the way to 19.

# %%
lane = sw.make("maze", users=1, layout="corridor")
cells = lane.observation_of(torch.arange(6))


def after(walks):
    """Return Q(cell, right) of a new pupil after so many walks of six steps."""
    pupil = sw.QLearning(lane.spec, learning_rate=0.5)
    for _ in range(6 * walks):
        pupil.observe(lane.step(torch.tensor([[RIGHT]])))
        pupil.update()
    return pupil.values(cells)[:, RIGHT].tolist()


print("Q(cell, right) after one walk:  ", after(1))

# %% [markdown]
# **Exercise 3.** What is Q(last cell, right) after the second walk? And when does the *first* cell hear of the centre?
# (Try `after(3)`, `after(4)`, …: how many walks until its Q is above 0?)

# %%
answer_3 = None
check(answer_3, after(2)[5])

# %% [markdown]
# Now the real thing: 256 mice at once, one table for all of them. Mostly they do what the table says is best; with
# probability 0.2 they do something at random, because who never tries never learns. That is **exploration**.

# %%
many = sw.make("maze", users=256, seed=0)
agent = sw.QLearning(many.spec, seed=0, epsilon=0.2)
everything = many.observation_of(torch.arange(len(maze.following)))
curve, pictures = [], {}
for step in range(1, 401):
    agent.observe(many.step(agent.act(many.observation)))
    agent.update()
    if step in (10, 40, 400):
        pictures[step] = agent.values(everything)
    if step % 20 == 0:
        curve.append((256 * step, sw.evaluate(agent, thousand, episodes=1000).mean))

ceiling = many.references.ceiling.mean
print(f"after {400 * 256:,} steps of mice: {curve[-1][1]:.2f}; the best there is: {ceiling:.2f}")
assert abs(curve[-1][1] - ceiling) < 0.01 * ceiling

# %%
figure = Figure(figsize=(5.5, 2.8), layout="constrained")
axes = figure.add_subplot()
axes.plot([s for s, _ in curve], [r for _, r in curve], color="#2f7d4f", lw=2, label="Q-learning, acting greedily")
for name, level, style in (("value iteration", ceiling, "--"), ("random", random.mean, ":")):
    axes.axhline(level, color="#22272e", lw=1, ls=style, label=name)
axes.set(xlabel="steps taken by all mice", ylabel="mean return of an episode")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="center right")
figure

# %%
value_map(maze, pictures[10], title="Q-learning after 10 steps each")

# %%
value_map(maze, pictures[40], title="after 40")

# %%
value_map(maze, pictures[400], title="after 400: where mice come, it is value iteration's")

# %% [markdown]
# Nobody told them where the centre is, or that poison is bad.
#
# **Where they go, they know; where they do not, they do not.** Some cells still differ from value iteration: cells that
# a mouse hardly ever sees *with all the cheese left*.
#
# ## A mouse that sees only the next step
#
# Most recommenders predict what the user does *now* and show the best of that. A mouse like that counts only the next
# reward: its discount γ, what a reward one step later is worth, is 0.

# %%
greedy = sw.QLearning(many.spec, seed=0, discount=0.0)
sw.train(greedy, many, steps=100_000, progress=False)
value_map(maze, greedy.values(everything), title="only the next reward: no idea where to go")

# %%
result = sw.evaluate(greedy, thousand, episodes=1000)
print(
    f"its mean return: {result.mean:.1f}, in {result.mean_length:.0f} steps; the mouse that looks ahead: {ceiling:.1f}"
)
assert result.mean < ceiling - 50

# %% [markdown]
# Next to cheese it takes the cheese, next to poison it does not. Everywhere else all moves look alike, −1, and it walks
# into walls. Anything between: with γ = 0.5 a reward three steps away counts an eighth.
#
# **Exercise 4.** In the corridor, with γ = 0.5, what is the value of the cell *two* steps before the centre?

# %%
answer_4 = None
check(answer_4, float(value_iteration(corridor, discount=0.5)[corridor.centre - 2].max()))

# %% [markdown]
# ## The dictionary
#
# | | the mouse | a self-driving car | a recommender |
# | --- | --- | --- | --- |
# | state | its cell, the cheese left | what cameras and speedometer say | what is known of the user and the session |
# | action | one of four moves | steer, accelerate, brake | **which items to show**: a slate |
# | reward | cheese, poison, −1 a step | −1 a harsh brake, −1000 a crash | minutes watched, a purchase, a rating |
# | time step | a move | a tenth of a second | one page of recommendations |
# | episode | until the centre | a drive | a session |
# | terminated | at the centre | arrived, or crashed | the user has left |
# | truncated | after 100 steps | the test drive's time is up | the log ends while the user is still here |
# | policy | move → where | the driving program | the recommender |
# | value | what a cell leads to | "this lane jams ahead" | "this user will be back tomorrow" |
# | exploration | a random move | in the simulator, not on the road | an item that might please |
#
# What changes is not the idea but the size: a recommender's states do not fit a table, so a network stands in its
# place; its actions are slates, more of them than atoms, so they are taken apart; and the state is partly hidden. But
# the record is the same, and so are the verbs:

# %%
users = sw.make("interest-evolution", users=3, seed=0)
recommender = sw.SlateQ(users.spec, choice=users.choice, seed=0)
it = users.step(recommender.act(users.observation))
print(
    "state      ", list(it.observation.user.shape), "features of 3 users:", users.spec.user[0], "…", users.spec.user[-1]
)
print("action     ", it.decision.slate.tolist(), "two of ten items each")
print("reward     ", it.response.total_reward.tolist(), "minutes watched")
print("terminated ", it.terminated.tolist(), " truncated", it.truncated.tolist())

# %% [markdown]
# And so is the trap. A recommender that looks only at the next click is the mouse with γ = 0: next to chocolate it
# takes the chocolate. What that costs is the story of *long-term satisfaction*, the next world.
#
# ## Solutions

# 1. −1 + 9 − 11 + 19 = 16: every step costs 1, and the poison is worth it here.
# 2. Five steps of −1 and a last one of −1 + 20: 14.
# 3. Half of the way from 9.5 to 19: 14.25. What is known moves back one cell a walk, and only half of the way each
#    time, so the first cell's Q is above 0 only after nine walks, though the centre is six steps away.
# 4. −1 + 0.5 · 19 = 8.5.

# %%
check(16, return_of(small, RIGHT, RIGHT, DOWN, DOWN))
check(14, float(value_iteration(corridor)[corridor.starts].max()))
check(14.25, after(2)[5])
check(9, next(walks for walks in range(1, 20) if after(walks)[0] > 0))
check(8.5, float(value_iteration(corridor, discount=0.5)[corridor.centre - 2].max()))
