"""Stacked models: each replica is the model it was made of, whatever the others do."""

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from lit_gen.nn import draws
from lit_gen.nn.replicas import stack
from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init


class Small(LightningModule):
    def __init__(self, automatic: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = automatic
        self.hidden = WeightNormLinear(5, 4, nn.init.normal_, train_scale=True)
        self.out = WeightNormLinear(4, 3, nn.init.normal_)
        self.scale = nn.Parameter(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(x + draws.randn_like(x)).tanh())

    def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return (self(x) * self.scale.unsqueeze(-1).unsqueeze(-1)).square().mean((-2, -1))


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def three() -> tuple[list[Small], LightningModule]:
    torch.manual_seed(0)
    models = [Small(), Small(), Small()]
    return models, stack(models, [torch.Generator().manual_seed(k) for k in range(3)])


def test_losses_and_gradients_are_those_of_separate_models_with_their_own_noise() -> None:
    models, whole = three()
    x = torch.randn(3, 7, 5)

    losses = whole.training_step(x, 0)
    losses.sum().backward()

    for k, model in enumerate(models):
        torch.manual_seed(k)
        loss = model.training_step(x[k], 0)
        loss.backward()
        torch.testing.assert_close(losses[k], loss)
        for name, p in model.named_parameters():
            torch.testing.assert_close(whole.get_parameter(name).grad[k], p.grad)


def test_a_replica_that_is_not_finite_leaves_the_others_alone() -> None:
    _, whole = three()
    x = torch.randn(3, 7, 5)
    x[1] = torch.nan

    losses = whole.training_step(x, 0)
    losses.sum().backward()

    assert losses.isfinite().tolist() == [True, False, True]
    for p in whole.parameters():
        assert p.grad[[0, 2]].isfinite().all()


def test_one_batch_serves_all_in_evaluation() -> None:
    models, whole = three()
    x = torch.randn(7, 4, requires_grad=True)

    y = whole.out(x)
    y.square().sum().backward()

    expected = torch.stack([model.out(x) for model in models])
    torch.testing.assert_close(y, expected)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(x.grad, gradient)


def test_data_dependent_initialisation_is_each_replica_s_own() -> None:
    models, whole = three()
    x = torch.randn(3, 50, 5)

    with draws.streams(whole.streams):
        data_dependent_init(whole, x)
    for k, model in enumerate(models):
        torch.manual_seed(k)
        data_dependent_init(model, x[k])

    for name, value in whole.state_dict().items():
        separate = torch.stack([model.state_dict()[name] for model in models])
        torch.testing.assert_close(value, separate)


def test_the_models_are_left_as_they_are() -> None:
    models, whole = three()
    before = [p.clone() for p in models[0].parameters()]

    with torch.no_grad():
        for p in whole.parameters():
            p.add_(1)

    for p, old in zip(models[0].parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_lightning_s_own_optimization_is_refused() -> None:
    with pytest.raises(ValueError, match="automatic_optimization"):
        stack([Small(automatic=True)], [torch.Generator()])
