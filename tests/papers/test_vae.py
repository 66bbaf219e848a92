"""VAE and IWAE: what the equations imply, whatever the weights."""

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from lit_gen.metrics.likelihood import importance_weighted
from lit_gen.nn import draws
from lit_gen.papers.vae import AEVB, IWAE

TWO_LAYERS = {"latent": [100, 50], "hidden": [200, 100]}


def binary(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 784, generator=generator) < 0.2).to(dtype)


def build(model: type = IWAE, seed: int = 0, **arguments) -> IWAE | AEVB:
    torch.manual_seed(seed)
    return model(**arguments).double()


@pytest.mark.parametrize(
    ("model", "count"),
    [(IWAE(), 425_284), (IWAE(**TWO_LAYERS), 521_084), (AEVB(20), 815_824)],
)
def test_networks_have_the_sizes_of_the_papers(model, count: int) -> None:
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("sizes", [{}, TWO_LAYERS], ids=["one layer", "two layers"])
def test_a_weight_is_the_joint_over_the_posterior(sizes: dict) -> None:
    model, x = build(**sizes), binary(4)
    noise = [torch.randn(12, n, dtype=torch.float64) for n in model.hparams.latent]
    drawn = iter(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "randn_like", lambda _: next(drawn))
        log_w = model.log_weight(x, samples=3)

    below, log_q, h = x.repeat(3, 1), 0, []
    for layer, eps in zip(model.encoder, noise, strict=True):
        mu, log_sigma = layer(below)
        below = mu + log_sigma.exp() * eps
        log_q = log_q + Normal(mu, log_sigma.exp()).log_prob(below).sum(-1)
        h.append(below)
    log_p = Normal(0, 1).log_prob(h[-1]).sum(-1)
    for i, layer in enumerate(model.decoder):  # downwards
        mu, log_sigma = layer(h[-1 - i])
        log_p = log_p + Normal(mu, log_sigma.exp()).log_prob(h[-2 - i]).sum(-1)
    log_p = log_p + Bernoulli(logits=model.pixels(h[0])).log_prob(x.repeat(3, 1)).sum(-1)

    torch.testing.assert_close(log_w, (log_p - log_q).view(3, 4))


def test_with_one_sample_both_objectives_are_one() -> None:
    x, gradients = binary(6), []
    for objective in ("vae", "iwae"):
        model = build(objective=objective, samples=1)
        torch.manual_seed(1)
        bound = model.bound(x)
        gradients.append([bound, *torch.autograd.grad(bound, list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_gradient_weighs_samples_by_their_normalised_weights() -> None:
    model, x = build(objective="iwae", samples=5), binary(3)
    parameters = list(model.parameters())
    torch.manual_seed(1)
    ours = torch.autograd.grad(model.bound(x), parameters)
    torch.manual_seed(1)
    log_w = model.log_weight(x, 5)
    theirs = torch.autograd.grad((log_w.softmax(0).detach() * log_w).sum(0).mean(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_bounds_are_tighter_with_more_samples() -> None:
    x = binary(200)
    values = []
    for k in (1, 5, 50):
        model = build(objective="iwae", samples=k)
        with torch.no_grad(), draws.of_examples(torch.arange(200)):
            values.append(float(model.bound(x)))
        mean = build(objective="vae", samples=k)
        with torch.no_grad(), draws.of_examples(torch.arange(200)):
            assert abs(float(mean.bound(x)) - values[0]) < 3  # more samples, the same bound
    assert values == sorted(values)
    assert values[2] - values[0] > 1


def test_a_model_that_ignores_its_code_has_the_likelihood_of_its_pixels() -> None:
    """q = p = N(0, I): every weight is p(x), however many there are."""
    model, x = build(importance_samples=50), binary(5)
    means = torch.linspace(0.05, 0.9, 784, dtype=torch.float64)
    for head in (model.encoder[0].layers[-1], model.pixels[-1]):
        torch.nn.init.zeros_(head.weight)
    model.pixels[-1].bias.data = means.logit()

    found = model.measure(x, torch.arange(5))

    known = Bernoulli(means).log_prob(x).sum(-1)
    for name in ("elbo", "log_px"):
        torch.testing.assert_close(found[name].double(), known, rtol=0, atol=2**-11 + 1e-9)


@pytest.mark.parametrize("sizes", [{}, TWO_LAYERS], ids=["one layer", "two layers"])
def test_a_measurement_does_not_depend_on_its_batches(sizes: dict) -> None:
    model, x, index = build(importance_samples=45, **sizes), binary(10), torch.arange(10) + 7
    with torch.no_grad():
        whole = model.measure(x, index)
        parts = [model.measure(x[i], index[i]) for i in (slice(0, 3), slice(3, 10))]
    for name in ("elbo", "log_px"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))
    assert len(set(whole["elbo"].tolist())) == 10
    total = sum(part["units_sum"] for part in parts)
    torch.testing.assert_close(whole["units_sum"], total)


def test_importance_samples_are_all_drawn_and_differ() -> None:
    model, x = build(importance_samples=45), binary(2)
    with torch.no_grad(), draws.of_examples(torch.arange(2)):
        elbo = model.log_weight(x)
        parts = list(model.parts(x))
    log_w = torch.cat([elbo, *parts])
    assert log_w.shape == (46, 2)
    assert len(log_w.unique()) == 92  # the bound from one sample has a sample of its own
    with torch.no_grad():
        log_px = model.measure(x, torch.arange(2))["log_px"]
    torch.testing.assert_close(log_px.double(), importance_weighted(parts), rtol=0, atol=1e-3)


def test_passes_and_rates_are_those_of_the_paper() -> None:
    model = IWAE()
    rates = [model.rate(epoch) for epoch in range(3280)]
    runs = [rates.count(rate) for rate in sorted(set(rates), reverse=True)]
    assert runs == [3**i for i in range(8)]
    assert sorted(set(rates), reverse=True) == [
        1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4,
    ]  # fmt: skip
    assert model.rate(5000) == 1e-4


def test_mistakes_are_said_before_training() -> None:
    with pytest.raises(ValueError, match="iwae with 0 samples"):
        IWAE(samples=0)
    with pytest.raises(ValueError, match="foo with 5 samples"):
        IWAE(switch=(3, "foo", 5))
    with pytest.raises(ValueError, match="importance_samples=0"):
        AEVB(importance_samples=0)
    with pytest.raises(ValueError, match="one width for each layer"):
        IWAE(latent=[100, 50])


def test_a_single_image_has_pictures() -> None:
    assert [*build().pictures(binary(1))] == ["nats_of_each_unit_in_layer_1"]
    assert "reconstructions" in build().pictures(binary(3))


def test_stacked_models_are_the_models() -> None:
    models = [build(seed=k, objective="iwae", samples=3, **TWO_LAYERS) for k in range(3)]
    x = torch.stack([binary(4, seed=k) for k in range(3)])
    streams = [torch.Generator().manual_seed(k) for k in range(3)]
    whole = IWAE.together([copy.deepcopy(m) for m in models], streams)
    with draws.streams(streams):
        together = whole.bound(x)
    together.sum().backward()
    for k, model in enumerate(models):
        with draws.streams([torch.Generator().manual_seed(k)]):
            alone = IWAE.together([model], []).bound(x[k : k + 1])
        torch.testing.assert_close(together[k], alone[0], rtol=1e-12, atol=0)

    measured = []  # on the same images, with the same noise
    for m in [whole, *models]:
        with torch.no_grad(), draws.of_examples(torch.arange(4)):
            measured.append(m.log_weight(x[0], 2))
    torch.testing.assert_close(measured[0], torch.stack(measured[1:]), rtol=1e-12, atol=0)


def test_aevb_has_a_closed_form_for_the_divergence() -> None:
    model, x = build(AEVB, latent_dim=4, hidden_dim=30), binary(2)
    with torch.no_grad():
        torch.manual_seed(0)
        sampled = model.log_weight(x, 20_000).mean()
        bounds = torch.stack([model.bound(x) for _ in range(2000)])
    error = bounds.std() / 2000**0.5
    assert abs(bounds.mean() - sampled) < 4 * (error + 0.05)


def test_aevb_takes_the_head_for_a_variance() -> None:
    model = build(AEVB, latent_dim=4, hidden_dim=30)
    head = model.encoder[0].layers[-1]
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0] * 4 + [2.0] * 4, dtype=torch.float64)
    _, log_sigma = model.encoder[0](binary(1))
    assert torch.equal(log_sigma, torch.ones_like(log_sigma))  # sigma^2 = e^2


def test_samples_and_ways_between_are_images() -> None:
    model = build(**TWO_LAYERS).eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        images = [model.sample(6), *model.pictures(binary(20)).values()]
        images = images[:1] + images[3:] + images[1:3]
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(i.shape) for i in images] == [
        (6, 1, 28, 28), (2, 10, 1, 28, 28), (5, 10, 1, 28, 28), (1, 100), (1, 50),
    ]  # fmt: skip
    assert all(i.min() >= 0 and i.max() <= 1 for i in images[:3])


def test_repeated_examples_come_in_turn() -> None:
    x = torch.arange(4.0).view(2, 2)
    assert draws.repeat(x, 2).tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert draws.repeat(x.expand(3, 2, 2), 2).shape == (3, 4, 2)
