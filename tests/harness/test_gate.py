"""The regression gate: it bites, and it does not bark at nothing."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import run
from torch.nn.functional import cross_entropy, logsigmoid

from lit_gen.datamodules import images
from lit_gen.harness import gate
from lit_gen.harness.cli import main
from lit_gen.harness.record import Record
from lit_gen.harness.spec import find
from lit_gen.papers import gail, improved_gan, trpo
from lit_gen.papers.improved_gan import SemiSupervisedGAN

NAME = "improved_gan_mnist_semisup"
EPOCHS, DATA = 6, {"data": "a" * 64}


def curves(random: np.random.Generator, seeds: range, shift: float = 0.0) -> list[Record]:
    """Runs with two metrics; the second is shifted by so many standard deviations."""
    found = []
    for seed in seeds:
        luck = random.normal(size=2)
        noise = 0.3 * random.normal(size=(2, EPOCHS))
        errors = np.exp(7 - 0.2 * np.arange(EPOCHS) + 0.1 * (luck[0] + noise[0]))
        loss = 0.5 * np.arange(EPOCHS) - 1 + 0.05 * (luck[1] + noise[1] + shift)
        record = run((1, seed), provenance=DATA, curve=list(errors))
        record.result["curve"] = {"test/errors": list(errors), "train/loss": list(loss)}
        record.result["metrics"] = {"test/errors": errors[-1]}
        record.max_epochs = EPOCHS
        found.append(record)
    return found


def compare(stored: list[Record], fresh: list[Record]) -> gate.Finding:
    return gate.compare("paper", stored, fresh)


def test_the_same_numbers_are_called_identical() -> None:
    stored = curves(np.random.default_rng(0), range(20))

    assert compare(stored, stored[:2]).status == "identical"


def test_code_that_draws_other_numbers_raises_no_alarm() -> None:
    random, alarms, checks = np.random.default_rng(1), 0, 600
    for _ in range(checks):
        stored = curves(random, range(12))
        alarms += compare(stored, curves(random, range(2))).status == "outside"

    assert alarms <= 1  # 0.06 expected


def test_a_shift_in_one_metric_is_seen_and_more_runs_see_a_smaller_one() -> None:
    random, seen = np.random.default_rng(2), {}
    for k in (1, 4):
        trials = [
            compare(curves(random, range(20)), curves(random, range(30, 30 + k), shift=7)).bad
            for _ in range(60)
        ]
        seen[k] = sum(trials)

    assert compare(curves(random, range(20)), curves(random, range(1), shift=12)).bad
    assert seen[4] > seen[1] + 10


def test_what_no_longer_runs_or_logs_is_broken() -> None:
    stored = curves(np.random.default_rng(3), range(8))
    diverged = run(1, status="diverged", error={"step": 7, "type": "Diverged", "message": "nan"})
    silent = curves(np.random.default_rng(4), range(1))
    del silent[0].result["curve"]["train/loss"]

    assert compare(stored, [diverged]).status == "broken"
    assert "step 7" in compare(stored, [diverged]).sentence
    assert "train/loss" in compare(stored, silent).sentence
    assert compare(stored, silent).bad


def test_too_few_stored_runs_or_other_data_are_no_reference() -> None:
    random = np.random.default_rng(5)
    stored, fresh = curves(random, range(8)), curves(random, range(1))
    elsewhere = curves(random, range(1))
    elsewhere[0].provenance = {"data": "b" * 64}

    assert compare(stored[:4], fresh).status == "no reference"
    assert compare(stored, elsewhere).status == "no reference"
    assert not compare(stored, elsewhere).bad


def test_a_changed_default_is_said_before_anything_is_trained(monkeypatch) -> None:
    spec = find(NAME)
    stored = gate.stored(spec)
    assert list(gate.outdated(spec, stored)) == []

    for record in stored["release"]:
        record.config["model"]["init_args"]["lr"] = 0.006

    (complaint,) = gate.outdated(spec, stored)
    assert "model.lr was 0.006, is 0.003" in complaint
    assert "--remake" in complaint


# --- on real data, with bugs that somebody could make


def wrong_sign(patch: pytest.MonkeyPatch) -> None:
    right = improved_gan.feature_matching_loss
    patch.setattr(improved_gan, "feature_matching_loss", lambda a, b: -right(a, b))


def no_averaging(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SemiSupervisedGAN, "forward", lambda self, x: self.discriminator(x))


def leaked_labels(patch: pytest.MonkeyPatch) -> None:
    right = images.balanced_subset
    patch.setattr(images, "balanced_subset", lambda t, p, n: right(t, p, 3 * n))


def shuffled_labels(patch: pytest.MonkeyPatch) -> None:
    right = images.SemiSupervisedEpochs.__init__

    def init(self, x, y, labeled, *rest):
        y = y.clone()
        shuffled = torch.randperm(len(labeled), generator=torch.Generator().manual_seed(0))
        y[labeled] = y[labeled][shuffled]
        right(self, x, y, labeled, *rest)

    patch.setattr(images.SemiSupervisedEpochs, "__init__", init)


def other_draws(patch: pytest.MonkeyPatch) -> None:
    """Harmless: the noise comes from elsewhere in the stream, the mathematics is the same."""

    def latent(self, n):
        torch.rand(1)
        return torch.rand(n, self.hparams.latent_dim)

    patch.setattr(SemiSupervisedGAN, "latent", latent)


def three_passes(patch: pytest.MonkeyPatch) -> None:
    """Harmless: labelled, unlabelled and generated images one after the other."""

    def loss(self, x_labeled, y, x_unlabeled, generated):
        labeled, real, fake = map(self.discriminator, (x_labeled, x_unlabeled, generated))
        loss_real, loss_fake = improved_gan.unsupervised_loss(real, fake)
        return cross_entropy(labeled, y), loss_real.mean() + loss_fake.mean()

    patch.setattr(SemiSupervisedGAN, "discriminator_loss", loss)


def less_noise(patch: pytest.MonkeyPatch) -> None:
    """So small an error that curves do not show it; the probe does."""

    def forward(self, x):
        return torch.add(x, torch.randn_like(x), alpha=0.9 * self.sigma) if self.training else x

    patch.setattr(improved_gan.Noise, "forward", forward)


def renamed(patch: pytest.MonkeyPatch) -> None:
    """Harmless: the same loss, written another way."""
    patch.setattr(
        improved_gan,
        "feature_matching_loss",
        lambda real, generated: (generated.mean(0) - real.mean(0)).square().mean(),
    )


@pytest.fixture(scope="module")
def real_data() -> str:
    folder = os.environ.get("LIT_GEN_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("LIT_GEN_DATA names no folder with the real MNIST: the gate cannot train")
    return folder


@pytest.mark.parametrize(
    ("change", "bad"),
    [(wrong_sign, True), (no_averaging, True), (leaked_labels, True), (shuffled_labels, True),
     (less_noise, True), (other_draws, False), (renamed, False), (three_passes, False)],
)  # fmt: skip
def test_the_gate_bites_at_bugs_and_lets_refactorings_pass(
    change: Callable, bad: bool, real_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    spec = find(NAME)
    spec = replace(  # one setting and one protocol are enough here
        spec,
        gate=spec.gate | {"protocols": {"release": spec.gate["protocols"]["release"]}},
        settings={"labels_100": spec.settings["labels_100"]},
        protocols={"release": {}},
    )

    found = list(gate.findings(spec, 1.0, gate.Machine("cpu", 1, real_data)))

    assert [f.of for f in found][-1] == "release"
    assert any(f.bad for f in found) is bad, [f.sentence for f in found]


# --- of control, whose runs need an expert's


def endless_reward(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gail, "adversarial_reward", lambda z, success_ends: logsigmoid(z))


def other_lambda(patch: pytest.MonkeyPatch) -> None:
    right = trpo.gae
    patch.setattr(trpo, "gae", lambda r, v, n, last, gamma, lam: right(r, v, n, last, gamma, 0.96))


def undamped(patch: pytest.MonkeyPatch) -> None:
    right = trpo.trust_region_step
    patch.setattr(trpo, "trust_region_step", lambda *args: right(*args[:-1], 0.9 * args[-1]))


def unseen_expert(patch: pytest.MonkeyPatch) -> None:
    """The standardisation begins with the policy's own observations."""
    patch.setattr(gail.GAIL, "begin", lambda self, s, a: None)


def same_reward(patch: pytest.MonkeyPatch) -> None:
    """Harmless: -log(1 - D), written another way."""
    patch.setattr(gail, "adversarial_reward", lambda z, success_ends: -logsigmoid(-z))


@pytest.mark.parametrize(
    ("change", "bad"),
    [(endless_reward, True), (other_lambda, True), (undamped, True), (unseen_expert, True),
     (same_reward, False)],
)  # fmt: skip
def test_the_gate_of_an_imitator_trains_its_expert_and_bites(
    change: Callable, bad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    spec = find("gail_cartpole")
    cell = spec.default_setting
    spec = replace(spec, settings={cell: spec.settings[cell]})
    said: list[str] = []

    found = list(gate.findings(spec, 1.0, gate.Machine("cpu", 1, say=said.append)))

    assert any("gail_expert_cartpole" in line for line in said)
    assert [f.of for f in found][-1] == "paper"
    assert any(f.bad for f in found) is bad, [f.sentence for f in found]


# --- the command


def test_every_gate_is_trained_though_one_complains(monkeypatch, capsys) -> None:
    trained = []

    def findings(spec, budget, machine):
        trained.append(spec.name)
        yield gate.Finding("probe", "outside", "another number")

    monkeypatch.setattr(gate, "findings", findings)
    names = ["iaf_mnist", "vae_mnist"]

    with pytest.raises(SystemExit, match=r"^1$"):
        main(["check", *names, "--train", "2s"])

    assert trained == names
    assert capsys.readouterr().err.count("no longer trains as stored") == len(names)


def test_the_probe_is_made_anew_without_the_curves(tmp_path, monkeypatch) -> None:
    (tmp_path / "curve.json").write_text("stays")
    monkeypatch.setattr(gate, "folder", lambda spec: tmp_path)
    monkeypatch.setattr(gate.probe, "measure", lambda *_: {"lr 0": [0.5]})
    monkeypatch.setattr(gate, "complaints", lambda spec: [])

    with pytest.raises(SystemExit, match=r"^0$"):
        main(["check", NAME, "--remake-probe"])

    spec = find(NAME)
    assert gate.stored_probe(spec) == {
        gate.probe.name(run): {"lr 0": [0.5]} for run in gate.probe.cells(spec)
    }
    assert (tmp_path / "curve.json").read_text() == "stays"
