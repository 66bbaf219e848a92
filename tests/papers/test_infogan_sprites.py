"""InfoGAN on sprites: what Q says of an image is scored against the factors it was made from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import find
from lit_gen.harness.verdicts.certificate import metric, recomputed
from lit_gen.papers import infogan
from lit_gen.papers.infogan_sprites import SpriteInfoGAN

SCORES = ("test/mig", "test/sap", "test/factor_vae_score")


def small(monkeypatch: pytest.MonkeyPatch) -> SpriteInfoGAN:
    shape = replace(
        infogan.ARCHITECTURES["mnist"],
        trunk=(infogan.Conv(4, norm=False), infogan.Conv(6)),
        trunk_units=16, head_units=8, dense=16, maps=(6, 7), up=(infogan.Conv(4),),
    )  # fmt: skip
    monkeypatch.setitem(infogan.ARCHITECTURES, "mnist", shape)
    return SpriteInfoGAN(categories=[3], continuous=4)


def scored(model: SpriteInfoGAN, codes: torch.Tensor, factors: torch.Tensor) -> dict[str, float]:
    """The test's scores, if Q said these codes, (N, 5)."""
    logged: dict[str, float] = {}
    model.log = lambda name, value: logged.update({name: value})
    parts = iter(codes.split(100))
    model.code = lambda x: next(parts)
    model.on_test_epoch_start()
    for batch in factors.split(100):
        model.test_step((torch.zeros(len(batch), 1, 28, 28), batch), 0)
    model.on_test_epoch_end()
    return logged


@torch.no_grad()
def test_a_code_is_the_most_probable_category_and_the_means(monkeypatch) -> None:
    model = small(monkeypatch)
    output = torch.tensor([[0.1, 0.7, 0.2, *range(8)], [2.0, 0.0, 0.0, *range(8, 16)]])
    model.discriminator.q.forward = lambda features: output

    code = model.code(torch.rand(2, 1, 28, 28))

    assert code.tolist() == [[1, 0, 1, 2, 3], [0, 8, 9, 10, 11]]


def test_codes_that_are_the_factors_score_high_and_noise_scores_low(monkeypatch) -> None:
    model = small(monkeypatch)
    grid = np.indices((3, 4, 4, 5, 5)).reshape(5, -1).T
    factors = torch.from_numpy(np.random.RandomState(0).permutation(grid))

    known = scored(model, factors.float(), factors)
    noise = torch.cat([torch.randint(3, (len(grid), 1)).float(), torch.rand(len(grid), 4)], 1)
    unknown = scored(model, noise, factors)

    assert known.keys() == set(SCORES)
    assert known["test/mig"] == pytest.approx(1)
    assert known["test/factor_vae_score"] == 1
    assert known["test/sap"] > 0.9
    assert unknown["test/mig"] < 0.1 > unknown["test/sap"]
    assert unknown["test/factor_vae_score"] < 0.5


@pytest.mark.parametrize("setting", ["infogan", "gan"])
def test_a_run_s_scores_follow_from_what_it_keeps(setting, monkeypatch, tmp_path) -> None:
    small(monkeypatch)
    spec = find("infogan_sprites")
    run = Run(spec, setting, "sprites", spec.seeds[0], {}, smoke=True)

    record = execute(run, tmp_path, "cpu")

    assert record.status == "finished", record.error
    (path,) = tmp_path.glob("*/*/predictions.npz")
    arrays = dict(np.load(path))
    for name in SCORES:
        value = record.result["metrics"][name]
        assert recomputed(metric(spec, name), arrays) == pytest.approx(value, abs=1e-6)
        assert name in record.result["metric_ids"]
    assert "scored by numbers" in record.provenance["not_beside"]["seen/factors"]
    pictures = {p.stem for p in tmp_path.glob("*/*/pictures/*.png")}
    assert {"traversal_c1", "traversal_c2", "traversal_c5_wide"} <= pictures
