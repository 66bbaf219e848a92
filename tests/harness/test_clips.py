"""Clips: an episode is filmed as it was played; where it cannot be, nothing else ends."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gymnasium")

import gymnasium

from lit_gen.datamodules import clips
from lit_gen.datamodules.clips import FPS, MOST, Film, film, pace, shoot, side_by_side
from lit_gen.datamodules.episodes import Stage, Wanted
from lit_gen.harness import pictures
from lit_gen.harness.record import Record
from lit_gen.harness.run import film as keep
from lit_gen.nn.control import Policy, Task

TASK = Task("CartPole-v1", 200, 4, 2, discrete=True)
WEIGHT = np.array([[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]])  # falls, but not at once
POLICY = Policy(((WEIGHT, np.zeros(2)),), None, None)


class Marked(gymnasium.Env):
    """Its picture says how many steps there were; it ends after `last` of them."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, last: int = 10, dies: bool = False) -> None:
        self.render_mode, self.last, self.dies = render_mode, last, dies

    def reset(self, **_: object) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(1), 1.0, self.steps == self.last, False, {}

    def render(self) -> np.ndarray:
        if self.dies:
            os.abort()  # as drivers do
        return np.full((400, 300, 3), self.steps % 256, np.uint8)


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of Marked, which another process finds, too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = "test_clips:Marked-v0"
    if "Marked-v0" not in gymnasium.registry:
        gymnasium.register("Marked-v0", entry_point=Marked)
    return name


if "Marked-v0" not in gymnasium.registry:  # in the process that renders
    gymnasium.register("Marked-v0", entry_point=Marked)


def task(name: str, limit: int = 1000, **options: object) -> Task:
    return Task(name, limit, 1, 2, discrete=True, options=options)


ONE = Policy(((np.zeros((1, 2)), np.zeros(2)),), None, None)


@pytest.mark.parametrize("last", [1, 10, 14, 15])
def test_frames_are_in_their_order_with_the_first_and_the_last(marked: str, last: int) -> None:
    found = shoot(task(marked, limit=2 * MOST, last=last), ONE, (0,), False)

    shown = [int(frame[0, 0, 0]) for frame in found.frames]
    assert shown == sorted({*range(0, last, 2), last - last % 2, last})
    assert found.frames.shape[1:] == (clips.HEIGHT, clips.HEIGHT * 3 // 4, 3)
    assert (found.total, found.steps) == (last, last)


def test_a_long_episode_is_cut_but_counted_whole(marked: str) -> None:
    found = shoot(task(marked, limit=5000, last=4000), ONE, (0,), False)

    assert len(found.frames) == MOST
    assert (found.total, found.steps) == (4000, 4000)


def test_a_film_runs_as_fast_as_its_task_or_up_to_twice_as_fast() -> None:
    assert pace(FPS, MOST - 1) == 1
    assert pace(2 * FPS, 10) == 2
    assert pace(FPS, 10 * MOST) == 2
    assert pace(None, 10) == 1
    assert pace(5, 10) == 1


def test_what_is_filmed_is_the_episode_that_was_evaluated() -> None:
    pytest.importorskip("pygame")
    wanted = Wanted(POLICY, (3, 1), drawn=True, count=2)
    played = Stage(TASK).play(wanted, 1)

    found = film(TASK, POLICY, (3, 1, 1), drawn=True)
    other = film(TASK, POLICY, (3, 1, 0), drawn=True)

    assert (found.total, found.steps) == (played.rewards.sum(), len(played.rewards))
    assert found.frames.dtype == np.uint8
    assert len(np.unique(found.frames[0])) > 2  # something is seen
    n = min(len(found.frames), len(other.frames))
    assert (found.frames[:n] != other.frames[:n]).any()


def test_a_driver_that_dies_ends_a_film_and_nothing_else(marked: str) -> None:
    with pytest.raises(RuntimeError, match=r"cannot be rendered: the process .* was lost"):
        film(task(marked, dies=True), ONE, (0,), False)


def test_the_camera_goes_along_where_the_model_has_one_that_does() -> None:
    pytest.importorskip("mujoco")
    cameras = {}
    for env, observations, actions in (("Hopper-v5", 11, 3), ("Reacher-v5", 10, 2)):
        seen = clips._visible(Task(env, 50, observations, actions)).unwrapped
        camera = seen.mujoco_renderer.camera_id
        cameras[env] = seen.model.camera(camera).name if camera >= 0 else "free"

    assert cameras == {"Hopper-v5": "track", "Reacher-v5": "free"}


def test_what_an_environment_raises_is_said() -> None:
    with pytest.raises(RuntimeError, match=r"Nowhere-v0 cannot be rendered: .*Nowhere"):
        film(task("Nowhere-v0"), ONE, (0,), False)


def test_it_says_nothing_and_leaves_the_variables_alone(capfd: pytest.CaptureFixture) -> None:
    before = dict(os.environ)

    film(TASK, POLICY, (0,), True)

    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_rendering_needs_no_torch() -> None:
    import subprocess

    code = "import sys, lit_gen.datamodules.clips; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def grey(count: int, value: int) -> Film:
    return Film(np.full((count, clips.HEIGHT, 150, 3), value, np.uint8), 12.345, 1000 * count)


def test_films_stand_side_by_side_and_the_shorter_one_waits() -> None:
    frames = side_by_side({"expert": grey(5, 100), "imitator": grey(3, 60)})

    left, right = frames[:, -1, 20], frames[:, -1, -20]
    assert frames.dtype == np.uint8
    assert len(frames) == 5 + clips.HOLD
    assert (left == 100).all()
    assert (right[:3] == 60).all()
    assert (right[3:] == 158).all()  # paler
    heads = frames[0, : clips.HEAD]
    half = frames.shape[2] // 2
    assert (heads[:, :half] < 100).any()  # words
    assert (heads[:, half:] < 100).any()


def test_a_film_s_head_has_its_return_and_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    draw = clips.ImageDraw.ImageDraw.text

    def text(self: object, at: object, said: str, *rest: object) -> None:
        words.append(said)
        draw(self, at, said, *rest)

    monkeypatch.setattr(clips.ImageDraw.ImageDraw, "text", text)

    side_by_side({"expert": grey(1, 0)._replace(steps=1), "imitator": grey(3, 0)})

    assert words == ["expert", "return 12.3 in 1 step", "imitator", "return 12.3 in 3,000 steps"]


# --- what the harness keeps of it


def noise(count: int, height: int = 200, width: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def test_a_clip_moves_at_its_speed_for_ever() -> None:
    frames = np.zeros((6, 40, 60, 3), np.uint8)
    for i in range(6):
        frames[i, :, 10 * i : 10 * i + 10] = 255

    with Image.open(io.BytesIO(pictures.webp(frames, 20))) as clip:
        assert (clip.format, clip.n_frames, clip.size) == ("WEBP", 6, (60, 40))
        assert clip.info["loop"] == 0
        for i in range(6):
            clip.seek(i)
            clip.load()
            assert clip.info["duration"] == 50
            assert np.asarray(clip.convert("L"))[20].argmax() // 10 == i


def test_a_large_clip_becomes_poorer_but_lasts_as_long() -> None:
    whole = pictures.webp(noise(12), 20)

    less = pictures.smaller(whole, len(whole) // 8)

    assert len(whole) <= pictures.LARGEST_CLIP
    assert len(less) <= len(whole) // 8
    assert pictures.smaller(whole, len(whole)) == whole
    assert pictures.smaller(whole, len(whole) // 8) == less
    lasting = []
    for content in (whole, less):
        with Image.open(io.BytesIO(content)) as clip:
            times = []
            for i in range(clip.n_frames):
                clip.seek(i)
                clip.load()
                times.append(clip.info["duration"])
            lasting.append(sum(times))
    assert lasting == [600, 600]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((np.zeros((3, 4, 5, 3)), 20), r"gave float64 \(3, 4, 5, 3\)"),
        ((np.zeros((3, 4, 5), np.uint8), 20), "give frames"),
        ((np.zeros((0, 4, 5, 3), np.uint8), 20), "give frames"),
        ((np.zeros((1001, 1, 1, 3), np.uint8), 20), "at most 1,000"),
        ((np.zeros((3, 4, 5, 3), np.uint8), 0), "gave 0 frames a second"),
    ],
)
def test_what_is_no_clip_is_a_sentence(given: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pictures.webp(*given)


class Data:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def clip(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_run_keeps_its_clip_and_says_why_there_is_none(tmp_path: Path) -> None:
    record = Record("r", "s", "p", {"data": 1, "model": 1}, {}, "0", [])
    path = tmp_path / "pictures/clip.webp"

    keep(record, Data((noise(3, 20, 20), 20)), path)
    assert path.read_bytes() == pictures.webp(noise(3, 20, 20), 20)
    assert "no_clip" not in record.provenance
    keep(record, Data(RuntimeError("no\n OpenGL")), path)
    assert not path.exists()
    assert record.provenance["no_clip"] == "RuntimeError: no OpenGL"
    keep(record, Data("nonsense"), path)
    assert "no_clip" in record.provenance
    keep(record, Data(None), path)
    assert not path.exists()
    assert "no_clip" not in record.provenance
