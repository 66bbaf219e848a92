"""Random numbers are those that a run alone in one process would draw."""

import pytest
import torch
from processes import run_in
from torch import Tensor

from lit_gen.nn import draws
from lit_gen.nn.distributed import rank_and_size

WHOLE = 12
FLOAT = {"device": torch.device("cpu"), "dtype": torch.float64}


def drawn() -> dict:
    """As a step does: noise for a hidden layer, then for the images of two kinds, then z."""
    torch.manual_seed(5)
    b = WHOLE // rank_and_size()[1]
    x = torch.zeros(b, 3, dtype=torch.float64)
    return {
        "noise": draws.randn_like(x),
        "both": draws.randn_like(torch.cat([x, x])),
        "z": draws.rand(b, 5, **FLOAT),
        "state": torch.get_rng_state(),
    }


@pytest.fixture(scope="module", params=[3])
def processes(request: pytest.FixtureRequest) -> list[dict]:
    return run_in(request.param, drawn)


@pytest.mark.parametrize("name", ["noise", "both", "z"])
def test_processes_draw_the_rows_of_one(processes: list[dict], name: str) -> None:
    """Of a concatenation, too: the numbers of an example do not depend on who holds it."""
    alone = drawn()[name]

    for rank, got in enumerate(processes):
        assert torch.equal(got[name], alone[rank :: len(processes)])


def test_processes_end_in_the_random_state_of_one(processes: list[dict]) -> None:
    for got in processes:
        assert torch.equal(got["state"], drawn()["state"])


def test_alone_they_are_torchs_own() -> None:
    torch.manual_seed(5)
    expected = [torch.randn(WHOLE, 3, dtype=torch.float64), torch.randn(24, 3, dtype=torch.float64)]

    got = drawn()

    assert torch.equal(got["noise"], expected[0])
    assert torch.equal(got["both"], expected[1])


def test_streams_are_separate_generators() -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (7, 8, 9)]

    before = torch.get_rng_state()
    with draws.streams(generators()):
        noise = draws.randn_like(torch.zeros(3, 4, 2, dtype=torch.float64))
        z = draws.rand(4, 5, **FLOAT)

    for k, generator in enumerate(generators()):
        row: Tensor = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        assert torch.equal(noise[k], row)
        assert torch.equal(z[k], torch.rand(4, 5, generator=generator, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_end_with_their_block() -> None:
    with draws.streams([torch.Generator()]):
        pass

    assert draws.rand(4, 5, **FLOAT).shape == (4, 5)


# --- a stream of its own for each example


def test_the_noise_of_an_example_is_its_own() -> None:
    index = torch.tensor([5, 9, 2])
    with draws.of_examples(index):
        whole = draws.randn_like(torch.empty(6, 4))  # two samples of each
    with draws.of_examples(index[1:]):
        part = draws.randn_like(torch.empty(4, 4))
    assert torch.equal(whole.view(2, 3, 4)[:, 1:], part.view(2, 2, 4))
    assert len(whole.unique()) == 24


def test_it_goes_on_within_and_begins_anew_outside() -> None:
    index, like = torch.tensor([1, 2]), torch.empty(2, 5)
    with draws.of_examples(index):
        first, second = draws.randn_like(like), draws.randn_like(like)
    with draws.of_examples(index):
        again = draws.randn_like(like)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_replicas_share_it_and_images_have_it_along_another_axis() -> None:
    index = torch.tensor([3, 4])
    with draws.of_examples(index):
        replicas = draws.randn_like(torch.empty(3, 2, 16))
    assert torch.equal(replicas[0], replicas[2])
    with draws.of_examples(index, axis=0):
        images = draws.randn_like(torch.empty(2, 1, 4, 4))
    assert torch.equal(images.flatten(1), replicas[0])


def test_it_is_normal_and_leaves_other_random_numbers_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with draws.of_examples(torch.arange(1000)):
        noise = draws.randn_like(torch.empty(1000, 50, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(noise.mean()) < 4 / 50_000**0.5
    assert abs(noise.var() - 1) < 4 * (2 / 50_000) ** 0.5
    assert abs(noise.mean(1).var() * 50 - 1) < 0.2  # neighbours' streams are independent


def test_an_image_gets_the_same_noise_in_any_memory_layout() -> None:
    x = torch.empty(2, 3, 4, 4)
    drawn = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        drawn.append(draws.randn_like(x.to(memory_format=layout)))
    assert torch.equal(*drawn)
