"""One object for all that is measured of samples: numbers, notes where there are none, evidence."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from inception_like import Small, images
from processes import run_in
from torch import nn

from lit_gen.metrics import distances, references, sample_quality, weights
from lit_gen.metrics.classifier_score import Classifier
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception_score import ClassifierScore, InceptionScore, inception_score
from lit_gen.metrics.sample_quality import NAMES, OfSamples, SampleQuality

FAKE, REAL = images(101), images(90, seed=1)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path))
    monkeypatch.setenv("LIT_GEN_OFFLINE", "1")


def small_classifier() -> Classifier:
    torch.manual_seed(0)
    made = Classifier()
    nn.init.normal_(made.head.weight, std=3)
    made.accuracy, made.id = 0.5, "0a1b2c3d"
    return made.eval()


def quality(**kwargs) -> SampleQuality:
    options = {
        "real": lambda: REAL,
        "fingerprint": "ninety",
        "extractor": Small(),
        "classifier": small_classifier(),
        "subsets": 5,
        "subset_size": 50,
    }
    return SampleQuality(**(options | kwargs))


def of(samples: torch.Tensor, measure: SampleQuality, step: int = 20) -> dict[str, float]:
    for part in samples.split(step):
        measure.update(part.float() / 255)
    return measure.compute()


def test_all_numbers_come_from_one_pass() -> None:
    measure = quality()
    found = of(FAKE, measure)

    ours, real = Small()(FAKE).numpy(), Small()(REAL).numpy()
    assert measure.notes == {}
    assert set(NAMES) < found.keys()
    plain, biased = (inception_score(Small().logits(ours, bias)) for bias in (False, True))
    assert found["inception_score"] == pytest.approx(plain.mean, rel=1e-6)
    assert found["inception_score_std"] == pytest.approx(plain.std, rel=1e-5)
    assert found["inception_score_biased"] == pytest.approx(biased.mean, rel=1e-6)
    assert plain.mean != pytest.approx(biased.mean, rel=1e-3)
    fid = distances.fid(distances.statistics(ours), distances.statistics(real))
    assert found["fid"] == pytest.approx(fid, rel=1e-6)
    kid = distances.kid(ours, real, 5, 50)
    assert (found["kid"], found["kid_std"]) == pytest.approx(kid, rel=1e-4)
    both = distances.precision_recall(ours, real)
    assert (found["precision"], found["recall"]) == both
    assert 1 < found["classifier_score"] < 10
    assert found["classifier_accuracy"] == 0.5


def test_what_a_run_keeps_gives_the_scores_again() -> None:
    measure = quality()
    found = of(FAKE, measure)

    assert InceptionScore(101).of(measure.kept) == found["inception_score"]
    assert InceptionScore(101, statistic="std").of(measure.kept) == found["inception_score_std"]
    assert InceptionScore(101, bias=True).of(measure.kept) == found["inception_score_biased"]
    assert ClassifierScore("0a1b2c3d", 101).of(measure.kept) == found["classifier_score"]
    assert float(measure.kept["fid_terms"].sum()) == found["fid"]
    assert float(measure.kept["kid_subsets"].mean()) == found["kid"]


def test_ids_name_weights_splits_samples_and_real_images() -> None:
    measure = quality()
    of(FAKE, measure)
    ids = measure.ids()

    assert ids["inception_score"] == (
        "inception_score/1 of 101 in 10 splits; small; logits without bias"
    )
    assert ids["inception_score_biased"].endswith("with bias")
    assert ids["kid"] == "kid/1 of 101, 5 subsets of 50; small; real ninety"
    assert ids["classifier_score"] == ClassifierScore("0a1b2c3d", 101).id
    assert ids.keys() == set(NAMES)


def test_without_logits_the_score_is_not_measurable_and_the_rest_is() -> None:
    measure = quality(extractor=Small("no last layer"))
    found = of(FAKE, measure)

    assert measure.notes == {
        name: "not measurable here: no last layer"
        for name in ("inception_score", "inception_score_biased")
    }
    assert not any(name.startswith("inception") for name in found)
    assert {"fid", "kid", "precision", "recall", "classifier_score"} < found.keys()


def test_without_weights_the_classifier_score_stands_alone(monkeypatch) -> None:
    def none(logits: bool) -> None:
        raise MetricError("no weights")

    monkeypatch.setattr(sample_quality, "inception", none)
    measure = quality(extractor=None)
    found = of(FAKE, measure)

    assert found.keys() == {"classifier_score", "classifier_score_std", "classifier_accuracy"}
    assert measure.notes["fid"] == "not measurable here: no weights"
    assert measure.notes.keys() == set(NAMES) - {"classifier_score"}


def test_a_metric_that_needs_more_samples_leaves_the_others_alone() -> None:
    measure = quality(classifier=None)
    found = of(FAKE[:30], measure)

    assert measure.notes["kid"].startswith("not measurable here: KID needs 50 images")
    assert "give `data`" in measure.notes["classifier_score"]
    assert {"fid", "precision", "inception_score"} < found.keys()


def test_batches_of_any_size_and_bytes_give_the_same() -> None:
    first = of(FAKE, quality(), step=7)
    measure = quality()
    measure.update(FAKE)

    assert measure.compute() == pytest.approx(first, rel=1e-6)


def test_real_features_are_computed_once() -> None:
    asked = []

    def real() -> torch.Tensor:
        asked.append(1)
        return REAL

    first, second = (of(FAKE, quality(real=real)) for _ in range(2))

    assert asked == [1]
    assert first == second


def test_a_killed_or_damaged_extraction_goes_on_where_it_was(monkeypatch) -> None:
    monkeypatch.setattr(references, "PART", 40)
    seen = []

    class Counting(Small):
        def forward(self, shown):
            seen.append(len(shown))
            return super().forward(shown)

    whole = references.features(lambda: REAL, "ninety", Counting())
    folder = references.folder_of("ninety", "small")
    parts = sorted(folder.glob("*.npy"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"!")
    seen.clear()

    again = references.features(lambda: REAL, "ninety", Counting())

    assert (again == whole).all()
    assert seen == [40, 40]
    assert len(list(folder.glob("*.npy"))) == 3
    parts[2].unlink()
    with pytest.raises(MetricError, match=r"90 images with the fingerprint ninety.* are 80"):
        references.features(lambda: REAL[:80], "ninety", Counting())


def in_two() -> dict[str, float]:
    measure = quality(real=lambda: REAL)
    share = FAKE[dist.get_rank() :: 2]
    found = of(share, measure)
    return found | {"rows": len(measure.kept["inception_kl"])}


def test_two_processes_give_the_numbers_of_one() -> None:
    whole = of(FAKE, quality())

    for found in run_in(2, in_two):
        assert found.pop("rows") == 101
        assert found == pytest.approx(whole, rel=1e-6)


def test_networks_are_not_part_of_a_checkpoint() -> None:
    measure = quality()
    of(FAKE, measure)

    assert not list(measure.parameters())
    assert not measure.state_dict()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ["FID"]}, "no metric 'FID'; there are inception_score"),
        ({"metrics": []}, "no metric is asked for"),
        ({"real": None}, "fid, kid, precision, recall compare with real images"),
        ({"metrics": ["kid"], "fingerprint": ""}, "kid compare"),
    ],
)
def test_what_cannot_be_asked_for_is_said(options: dict, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        quality(**options)


def test_no_samples_are_said_and_wrong_ones_refused() -> None:
    with pytest.raises(MetricError, match="there are no samples"):
        quality().compute()
    with pytest.raises(MetricError, match=r"not in \[0, 1\]"):
        quality().update(FAKE.float())


def test_missing_weights_say_where_to_put_them(monkeypatch) -> None:
    monkeypatch.setattr(weights, "_pool", lambda bad: None)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")

    with pytest.raises(MetricError, match=r"downloads are switched off.*Put weights-inception"):
        weights.provide()


# --- as the harness asks for it


class Data:
    fingerprint = "0123456789abcdef" * 4

    def images(self, split: str) -> torch.Tensor:
        return REAL if split == "train" else FAKE[:30]

    def targets(self, split: str) -> torch.Tensor:
        return torch.arange(len(self.images(split))) % 10


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small ones; returns the steps that classifiers were trained for."""
    steps: list[int] = []

    def classifier(data, fingerprint, n, progress) -> Classifier:
        steps.append(n)
        assert [len(part) for part in data()] == [90, 90, 30, 30]
        return small_classifier()

    monkeypatch.setattr(sample_quality, "inception", lambda logits: Small())
    monkeypatch.setattr(sample_quality.classifier_score, "classifier", classifier)
    return steps


def test_a_run_s_samples_are_judged_against_all_training_images(networks: list[int]) -> None:
    told: list[tuple] = []
    metric = OfSamples(101)

    found = metric.judge(lambda n: FAKE[:n] / 255, Data(), None, lambda *said: told.append(said))

    assert set(metric.names) < found.numbers.keys()
    ours, real = (distances.statistics(Small()(x).numpy()) for x in (FAKE, REAL))
    assert found.numbers["test/fid"] == pytest.approx(distances.fid(ours, real), rel=1e-6)
    score = InceptionScore(101)
    assert found.numbers["test/inception_score"] == pytest.approx(score.of(found.arrays), abs=1e-4)
    assert found.ids["test/inception_score"].startswith("inception_score/1 of 101 in 10 splits")
    assert "real 90 training images of 0123456789abcdef" in found.ids["test/fid"]
    assert {x.dtype for x in found.arrays.values()} == {np.dtype("float32")}
    assert found.notes == {}
    assert networks == [sample_quality.classifier_score.STEPS]
    assert ("features of samples", 0, 101) in told


def test_trying_out_draws_fewer_samples_and_says_so(networks: list[int]) -> None:
    found = OfSamples(50_000).judge(lambda n: FAKE[:n] / 255, Data(), 40)

    assert "of 40 in 10 splits" in found.ids["test/inception_score"]
    assert networks[0] < sample_quality.classifier_score.STEPS
    with pytest.raises(MetricError, match="samples is 5; 10 splits need as many"):
        OfSamples(5)


def test_what_was_not_measured_has_no_id(
    networks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Small()
    extractor.lacking = "the weights at hand end early"
    monkeypatch.setattr(sample_quality, "inception", lambda logits: extractor)

    found = OfSamples(101).judge(lambda n: FAKE[:n] / 255, Data())

    assert "test/inception_score" not in found.numbers
    assert found.notes["test/inception_score"].startswith("not measurable here: the weights")
    assert found.ids.keys() <= found.numbers.keys()
    assert "test/fid" in found.ids


def test_without_classes_only_the_classifier_score_is_missing(networks: list[int]) -> None:
    class Unlabelled(Data):
        targets = None

        def __getattribute__(self, name: str) -> object:
            if name == "targets":
                raise AttributeError(name)
            return super().__getattribute__(name)

    found = OfSamples(101).judge(lambda n: FAKE[:n] / 255, Unlabelled())

    assert "test/fid" in found.numbers
    assert "no labelled images" in found.notes["test/classifier_score"]


def test_a_classifier_that_cannot_be_had_costs_no_other_number(
    networks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Classifier:
        raise OSError("the disk is full")

    monkeypatch.setattr(sample_quality.classifier_score, "classifier", fails)
    state = torch.get_rng_state()

    found = OfSamples(101).judge(lambda n: FAKE[:n] / 255, Data())

    assert {"test/fid", "test/inception_score"} < found.numbers.keys()
    assert "the disk is full" in found.notes["test/classifier_score"]
    assert torch.equal(torch.get_rng_state(), state)


def test_calling_it_is_updating_it() -> None:
    called, updated = quality(), quality()
    for part in FAKE.split(20):
        assert called(part) is None

    assert called.compute() == of(FAKE, updated)
