"""Ways through a latent space: they end where they should, and stay where a generator has been."""

import pytest
import torch
from torch import Tensor

from lit_gen.nn.interpolate import Way, interpolations, linear, spherical

WAYS = pytest.mark.parametrize("way", [linear, spherical])


@WAYS
@pytest.mark.parametrize("shape", [(4, 50), (4, 2, 5, 5)])
def test_a_way_leads_from_one_point_to_the_other(way: Way, shape: tuple[int, ...]) -> None:
    start, end = torch.randn(2, *shape)

    points = way(start, end, 7)

    assert points.shape == (4, 7, *shape[1:])
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, -1], end)


def test_straight_lines_stay_in_the_cube_and_have_equal_steps() -> None:
    points = linear(*torch.rand(2, 20, 100), 9)

    assert ((points >= 0) & (points <= 1)).all()
    steps = points.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-6, rtol=0)


def test_arcs_keep_the_length_of_gaussian_points_and_lines_do_not() -> None:
    start, end = torch.randn(2, 20, 1000, generator=torch.Generator().manual_seed(0))

    arcs, lines = (way(start, end, 9).norm(dim=-1) / 1000**0.5 for way in (spherical, linear))

    assert (arcs - 1).abs().max() < 0.1
    assert (lines[:, 4] - 0.5**0.5).abs().max() < 0.06


def test_arcs_have_equal_angles() -> None:
    points = spherical(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 4)

    angles = torch.atan2(points[0, :, 1], points[0, :, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 4))
    torch.testing.assert_close(points.norm(dim=-1), torch.full((1, 4), 3.0))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_between_directions_that_have_no_arc_it_is_straight(factor: float) -> None:
    start = torch.randn(3, 8)

    points = spherical(start, factor * start, 5)

    torch.testing.assert_close(points, linear(start, factor * start, 5))


def normalising(z: Tensor) -> Tensor:
    """Images (B, 1, 1, D) that depend on the batch's mean, as of a batch normalisation."""
    return (z - z.mean(0)).view(len(z), 1, 1, -1)


def test_a_row_of_images_is_made_beside_others_of_training_s_batch() -> None:
    start, end, others = torch.rand(3, 4), torch.rand(3, 4), torch.rand(95, 4)

    shown = interpolations(normalising, start, end, 5, others=others)

    assert shown.shape == (3, 5, 1, 1, 4)
    for row, points in zip(shown, linear(start, end, 5), strict=True):
        batch = torch.cat([points, others])  # 100
        torch.testing.assert_close(row.view(5, 4), points - batch.mean(0))
    alone = interpolations(normalising, start, end, 5)
    assert (alone - shown).abs().max() > 0.01
    torch.testing.assert_close(alone.sum(1), torch.zeros(3, 1, 1, 4), atol=1e-5, rtol=0)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()

    interpolations(normalising, torch.ones(1, 2), torch.zeros(1, 2), way=spherical)

    assert torch.equal(torch.get_rng_state(), before)


@WAYS
@pytest.mark.parametrize("steps", [1, 0])
def test_a_way_has_both_ends(way: Way, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps={steps}: use 2 or more"):
        way(torch.ones(1, 2), torch.zeros(1, 2), steps)
