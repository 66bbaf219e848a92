"""A short film of an episode, which is played again where it can be seen.

It is rendered in a process of its own: whatever a graphics driver does, or lacks, ends that one
alone, and what it needs of the environment's variables is set there. Nothing here imports torch.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lit_gen.datamodules.episodes import Uniform, play
from lit_gen.nn.control import Policy, Task

HEIGHT, FPS, SECONDS = 200, 20, 7  # of a film
MOST = FPS * SECONDS  # frames
SHADOWS = 512  # pixels of MuJoCo's shadows; its 4,096 take most of the time without a GPU
PATIENCE = 300.0  # seconds that a film may take
HOLD = 12  # frames that the last one stays
GAP, HEAD, TEXT = 8, 42, 14  # pixels
INK, DIM = "#1b1f24", "#57606a"


class Film(NamedTuple):
    """An episode's first frames, one in so many steps, and what is true of the whole episode."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    total: float  # return
    steps: int


def film(task: Task, policy: Policy, stream: Sequence[int], drawn: bool) -> Film:
    """The episode that `lit_gen.datamodules.episodes.play` plays with these arguments.

    Raises:
        RuntimeError: it cannot be rendered here.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    what = (theirs, task, policy, tuple(stream), drawn)
    process = context.Process(target=_project, args=what, daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(PATIENCE) else f"it took more than {PATIENCE:.0f} s"
    except (EOFError, OSError):
        answer = "the process that rendered it was lost"
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, str):
        raise RuntimeError(f"{task.env} cannot be rendered: {answer}")
    return answer


def _project(pipe: Connection, *what: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):  # drivers and pygame talk
        os.dup2(nowhere, output)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        pipe.send(shoot(*what))
    except Exception as error:  # whatever environments and drivers raise
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    pipe.close()
    os._exit(0)  # some drivers fail when they are put away


def shoot(task: Task, policy: Policy | Uniform, stream: Sequence[int], drawn: bool) -> Film:
    """`film`, in this process."""
    env = _visible(task)
    every = pace(env.metadata.get("render_fps"), task.limit)
    frames: list[np.ndarray] = []
    seen = 0

    def watch() -> None:
        nonlocal seen
        if seen % every == 0 and len(frames) < MOST:
            frames.append(_small(env.render()))
        seen += 1

    episode = play(task, env, policy, stream, task.limit, drawn, watch=watch)
    steps = len(episode.rewards)
    if steps % every and len(frames) < MOST:  # how it ends
        frames.append(_small(env.render()))
    return Film(np.stack(frames), float(episode.rewards.sum()), steps)


def pace(fps: float | None, limit: int) -> int:
    """Steps from one frame to the next, for a task that has that many steps each second and in an
    episode: as fast as it is, or up to twice as fast so that more of the episode is seen."""
    real = max(1, round((fps or FPS) / FPS))
    return max(real, min(2 * real, math.ceil(limit / (MOST - 1))))


def _visible(task: Task) -> gymnasium.Env:
    try:
        env = task.make(render_mode="rgb_array", width=2 * HEIGHT, height=2 * HEIGHT)
    except ValueError:  # it has a size of its own
        return task.make(render_mode="rgb_array")
    if model := getattr(env.unwrapped, "model", None):
        with contextlib.suppress(AttributeError):
            model.vis.quality.shadowsize = SHADOWS
            model.vis.quality.offsamples = 0  # edges become smooth as the picture shrinks
        with contextlib.suppress(AttributeError, KeyError):  # a free camera stays where it began
            env.unwrapped.mujoco_renderer.camera_id = model.camera("track").id
    return env


def _small(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(frame[..., :3]))
    size = max(1, round(image.width * HEIGHT / image.height)), HEIGHT
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))


def side_by_side(films: Mapping[str, Film]) -> np.ndarray:
    """Films beside each other, below their names and returns, (T, H, W, 3) uint8.

    One that ends before another stays, pale, at its last frame.
    """
    heads = {name: _head(name, film) for name, film in films.items()}
    length = max(len(film.frames) for film in films.values())
    columns = []
    for name, film in films.items():
        count, height, width, _ = film.frames.shape
        wide = max(width, heads[name].shape[1])
        column = np.full((length + HOLD, HEAD + height, wide, 3), 255, np.uint8)
        column[:, :HEAD, : heads[name].shape[1]] = heads[name]
        at = (wide - width) // 2
        picture = column[:, HEAD:, at : at + width]
        picture[:count] = film.frames
        picture[count:] = film.frames[-1] if count == length else 128 + film.frames[-1] // 2
        columns.append(column)
    height = max(column.shape[1] for column in columns)
    parts = []
    for i, column in enumerate(columns):
        gap = GAP if i else 0
        part = np.full((length + HOLD, height, gap + column.shape[2], 3), 255, np.uint8)
        part[:, : column.shape[1], gap:] = column
        parts.append(part)
    return np.concatenate(parts, axis=2)


def _head(name: str, film: Film) -> np.ndarray:
    """Who plays, and with which return, (HEAD, W, 3)."""
    said = f"return {_number(film.total)} in {film.steps:,} step{'s' * (film.steps != 1)}"
    font = ImageFont.load_default(TEXT)
    width = math.ceil(max(font.getlength(name), font.getlength(said))) + 4
    image = Image.new("RGB", (width, HEAD), "white")
    pen = ImageDraw.Draw(image)
    pen.text((2, HEAD // 4), name, INK, font, "lm")
    pen.text((2, 3 * HEAD // 4 - 2), said, DIM, font, "lm")
    return np.asarray(image)


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 or x == round(x) else f"{x:,.1f}"
