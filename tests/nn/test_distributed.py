"""Several processes with shares of a batch compute what one computes with the whole of it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from processes import run_in
from torch import Tensor, nn

from lit_gen.nn.distributed import gather, mean, moments, rank_and_size, share
from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init
from lit_gen.papers.improved_gan import BatchNorm, feature_matching_loss


def batch() -> Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh()).double()


def matching(f: Tensor) -> Tensor:
    """Feature matching against examples of another kind: half of each process's."""
    a, b = f.chunk(2)
    return feature_matching_loss(a, b.exp())


def discrimination(f: Tensor) -> Tensor:
    """Each example against all of the batch (Salimans et al., 2016, Sec. 3.2)."""
    closeness = (-(f.unsqueeze(1) - gather(f)).abs().sum(-1)).exp().sum(1)
    return closeness.square().mean()


def normalised(f: Tensor) -> Tensor:
    mu, var = moments(f)
    return ((f - mu) * (var + 1e-3).rsqrt()).relu().pow(3).mean()


def layer(f: Tensor) -> Tensor:
    return BatchNorm(5).double()(f).relu().pow(3).mean()


def along_the_last(f: Tensor) -> Tensor:
    both = torch.stack([f, f.square()])  # (2, B, 5): the batch is not the first axis
    return (mean(both, -2).pow(2).sum() + gather(both, 1).pow(3).mean()).sin()


LOSSES = {f.__name__: f for f in (matching, discrimination, normalised, layer, along_the_last)}


def averaged(x: Tensor) -> Tensor:
    """Over the processes, as DDP does with gradients."""
    x = x.clone()
    torch.distributed.all_reduce(x)
    return x / rank_and_size()[1]


def differentiate(loss: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The loss, and its gradients by the weights."""
    net = network()
    value = loss(net(x))
    value.backward()
    return [value.detach(), *(p.grad for p in net.parameters())]


def initialised(x: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    layers = [WeightNormLinear(m, n, nn.init.normal_) for m, n in ((4, 6), (6, 3))]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1]).double()
    data_dependent_init(net, x)
    return [t.detach() for t in net.state_dict().values()]


def exchange() -> dict:
    """What one of several processes gets."""
    x = batch()
    mine = share(x)
    said = ""
    try:
        share(x[:7], 0)
    except ValueError as error:
        said = str(error)
    return {
        "rank_and_size": rank_and_size(),
        "share": mine,
        "columns": share(x.T.contiguous(), -1),
        "gather": gather(mine),
        "together": torch.cat([share(x), share(-x)]),
        "share_of_both": share(torch.cat([x, -x])),
        "mean": mean(mine),
        "moments": moments(mine),
        "refused": said,
        "initialised": initialised(mine),
        "losses": {
            name: [averaged(t) for t in differentiate(loss, mine)] for name, loss in LOSSES.items()
        },
    }


@pytest.fixture(scope="module", params=[2, 3])
def processes(request: pytest.FixtureRequest) -> list[dict]:
    return run_in(request.param, exchange)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_shares_are_every_wth_example(processes: list[dict]) -> None:
    size, x = len(processes), batch()

    for rank, got in enumerate(processes):
        assert got["rank_and_size"] == (rank, size)
        assert torch.equal(got["share"], x[rank::size])
        assert torch.equal(got["columns"], x.T[:, rank::size])


def test_gathering_undoes_sharing(processes: list[dict]) -> None:
    for got in processes:
        assert torch.equal(got["gather"], batch())


def test_shares_of_a_concatenation_are_concatenated_shares(processes: list[dict]) -> None:
    for got in processes:
        assert torch.equal(got["together"], got["share_of_both"])


def test_means_and_variances_are_those_of_the_whole(processes: list[dict]) -> None:
    x = batch()

    for got in processes:
        close(got["mean"], x.mean(0))
        close(got["moments"][0], x.mean(0))
        close(got["moments"][1], x.var(0, correction=0))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_couple_examples_and_their_gradients_follow_one_process(
    processes: list[dict], name: str
) -> None:
    x, size = batch(), len(processes)
    if name == "matching":  # the halves of the shares, in the order of the shares
        x = torch.cat([torch.cat([x[r::size].chunk(2)[i] for r in range(size)]) for i in (0, 1)])

    alone = differentiate(LOSSES[name], x)

    assert all(t.abs().max() > 1e-6 for t in alone)
    for got in processes:
        for ours, theirs in zip(got["losses"][name], alone, strict=True):
            close(ours, theirs)


def test_data_dependent_initialisation_sees_the_whole_batch(processes: list[dict]) -> None:
    for got in processes:
        for ours, theirs in zip(got["initialised"], initialised(batch()), strict=True):
            close(ours, theirs)


def test_unequal_shares_are_refused(processes: list[dict]) -> None:
    for got in processes:
        assert (
            got["refused"] == f"7 examples cannot be shared equally by {len(processes)} processes"
        )


def test_alone_nothing_is_exchanged() -> None:
    x = batch()

    assert rank_and_size() == (0, 1)
    assert share(x) is x
    assert gather(x) is x
    close(mean(x), x.mean(0))
    close(moments(x)[1], x.var(0, correction=0))


def test_the_layer_is_torchs_batch_norm() -> None:
    f = batch()

    close(BatchNorm(4).double()(f), F.batch_norm(f, None, None, training=True, eps=1e-6))
