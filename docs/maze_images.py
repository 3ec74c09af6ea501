"""The pictures of docs/maze.md: python docs/maze_images.py."""

from pathlib import Path

import torch

import slatewise as sw
from slatewise.maze_pictures import animate, picture, value_map, walk

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Train Q-learning for a second; draw the maze, its way and its values."""
    torch.set_num_threads(1)
    env = sw.make("maze", users=256, seed=4)
    agent = sw.QLearning(env.spec, seed=0)
    sw.train(agent, env, steps=200_000, progress=False)
    one = sw.make("maze", users=1, seed=4)
    way = walk(agent, one)
    IMAGES.mkdir(exist_ok=True)
    picture(env.maze, way[-1], way, "What it does").savefig(IMAGES / "maze-way.png", dpi=90)
    every = env.observation_of(torch.arange(len(env.maze.following)))
    value_map(env.maze, agent.values(every), title="What it learned").savefig(IMAGES / "maze-values.png", dpi=90)
    animate(env.maze, way, IMAGES / "the-mouse.gif")


if __name__ == "__main__":
    main()
