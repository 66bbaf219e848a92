"""All that is measured of one generator's samples, from one pass through each network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lit_gen.metrics import classifier_score, distances, references
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception import Extractor, inception, pixels
from lit_gen.metrics.inception_score import (
    ClassifierScore,
    InceptionScore,
    divergences,
    groups_of,
    score,
)
from lit_gen.metrics.samples import Numbered, kl_of_features

SCORES = ("inception_score", "inception_score_biased")
AGAINST_REAL = ("fid", "kid", "precision", "recall")
NAMES = (*SCORES, *AGAINST_REAL, "classifier_score")
PART = 200  # samples that are handed over at a time
TRIAL = 100  # so few are for trying things out: the classifier learns for ten steps


class SampleQuality(Numbered):
    """Inception score, FID, KID, precision, recall and classifier score of one set of samples.

        quality = SampleQuality(real=lambda: images, fingerprint="cifar10 train ...")
        for batch in samples: quality.update(batch)      # floats in [0, 1], or uint8
        numbers, why_not = quality.compute(), quality.notes

    What cannot be had here is left out of the numbers, and `notes` says why. Under DDP each sample
    goes to one process; all processes get the numbers of the whole set. The networks are no part of
    a checkpoint, and are made when they are first needed.

    Args:
        real: gives the real images (N, 3, H, W) uint8; only called if their features are not kept.
        fingerprint: names the real images and their order, in the cache.
        splits: groups of the scores.
        metrics: of NAMES; the scores bring their standard deviation, inception_score_std.
        data: gives labelled images for the classifier, see `classifier_score.classifier`.
        extractor: the Inception network, instead of the one that `inception` finds.
        classifier: a trained one, instead of one from the cache or from `data`.
        subsets, subset_size: of KID.
        neighbours: of precision and recall.
        progress: told what is done, how much of it, and of how much.
        classifier_steps: of the classifier's training.

    Raises:
        MetricError: a metric is unknown, or needs what is not given.
    """

    higher_is_better, is_differentiable, full_state_update = None, False, False

    def __init__(
        self,
        real: Callable[[], Tensor] | None = None,
        fingerprint: str = "",
        splits: int = 10,
        metrics: Sequence[str] = NAMES,
        data: classifier_score.Labelled | None = None,
        extractor: Extractor | None = None,
        classifier: classifier_score.Classifier | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        neighbours: int = 3,
        progress: Callable[[str, int, int], None] | None = None,
        classifier_steps: int = classifier_score.STEPS,
    ) -> None:
        super().__init__()
        if unknown := [name for name in metrics if name not in NAMES]:
            raise MetricError(f"there is no metric {unknown[0]!r}; there are {', '.join(NAMES)}")
        if not metrics:
            raise MetricError(f"no metric is asked for; there are {', '.join(NAMES)}")
        wanted = [name for name in AGAINST_REAL if name in metrics]
        if wanted and (real is None or not fingerprint):
            raise MetricError(
                f"{', '.join(wanted)} compare with real images: give `real` and `fingerprint`, or "
                "leave them out of `metrics`"
            )
        self.real, self.fingerprint, self.splits, self.metrics = real, fingerprint, splits, metrics
        self.data, self.subsets, self.subset_size = data, subsets, subset_size
        self.neighbours, self.progress = neighbours, progress
        self.classifier_steps = classifier_steps
        self.notes: dict[str, str] = {}
        self.count = 0  # samples of all processes, after `compute`
        self.kept: dict[str, np.ndarray] = {}
        # In a dictionary: as submodules they would go into every checkpoint.
        self.networks: dict[str, Any] = {"inception": extractor, "classifier": classifier}
        for name in ("features", "logits"):
            self.add_rows(name)

    def update(self, images: Tensor, index: Tensor | None = None) -> None:
        """Adds samples (B, 3, H, W): floats in [0, 1], rounded to the nearest byte, or uint8.

        Args:
            index: their numbers (B,) in the order of generation, each once over all processes.
                None counts on: sample i of process r of W is number r + i W.

        Raises:
            MetricError: another shape, type or range; or a pixel is nan.
        """
        shown = pixels(images)
        if not len(shown):
            return
        for name, network in (("features", self.extractor()), ("logits", self.classifier())):
            if network is not None:
                network.to(shown.device)
                look = network.logits if name == "logits" else network
                self.number(index, look(shown), name)

    def compute(self) -> dict[str, float]:
        """The numbers by name, those that can be had.

        Raises:
            MetricError: there are no samples, or one came twice.
        """
        found: dict[str, float] = {}
        self.kept = {}
        features = self._rows("features")
        logits = self._rows("logits")
        self.count = max(len(rows) for rows in (features, logits, ()) if rows is not None)
        if features is None and logits is None:
            if not self.notes:
                raise MetricError("there are no samples: call `update` before `compute`")
            return found
        steps = {
            "inception_score": (features, self._inception_scores),
            "inception_score_biased": (features, self._inception_scores),
            "fid": (features, self._fid),
            "kid": (features, self._kid),
            "precision": (features, self._precision_recall),
            "recall": (features, self._precision_recall),
            "classifier_score": (logits, self._classifier_score),
        }
        for name in self.metrics:
            rows, step = steps[name]
            if rows is None or name in found or name in self.notes:
                continue
            try:
                found |= step(name, rows)
            except MetricError as error:
                said = str(error)
                here = "not measurable here: "
                self.notes[name] = said if said.startswith(here) else here + said
        return found

    def ids(self) -> dict[str, str]:
        """What each number must share with another to be compared; after `compute`."""
        extractor, classifier = (self.networks[of] for of in ("inception", "classifier"))
        n = self.count
        said: dict[str, str] = {}
        if extractor:
            for bias, name in enumerate(SCORES):
                said[name] = _scored(InceptionScore(n, self.splits, bool(bias)), extractor.id)
            real = f"; real {self.fingerprint}"
            said["fid"] = f"fid/1 of {n}; {extractor.id}{real}"
            drawn = f"{self.subsets} subsets of {self.subset_size}"
            said["kid"] = f"kid/1 of {n}, {drawn}; {extractor.id}{real}"
            for name in ("precision", "recall"):
                near = f"{self.neighbours} neighbours"
                said[name] = f"{name}/1 of {n}, {near}; {extractor.id}{real}"
        if classifier:
            said["classifier_score"] = ClassifierScore(classifier.id, n, self.splits).id
        return {name: said[name] for name in self.metrics if name in said}

    def extractor(self) -> Extractor | None:
        """The Inception network, if a metric needs it and it can be had."""
        needed = [name for name in self.metrics if name in (*SCORES, *AGAINST_REAL)]
        if needed and self.networks["inception"] is None and needed[0] not in self.notes:
            try:
                scores = any(name in SCORES for name in needed)
                self.networks["inception"] = inception(logits=scores)
            except MetricError as error:
                self.notes |= {name: f"not measurable here: {error}" for name in needed}
        return self.networks["inception"] if needed else None

    def classifier(self) -> classifier_score.Classifier | None:
        """The CIFAR-10 network, if its score is asked for and it can be had."""
        name = "classifier_score"
        if name not in self.metrics or name in self.notes:
            return None
        if self.networks["classifier"] is None:
            if self.data is None:
                self.notes[name] = (
                    "not measurable here: no labelled images to train its classifier on; give "
                    "`data`"
                )
                return None
            told = self._told("training the classifier")
            try:
                self.networks["classifier"] = classifier_score.classifier(
                    self.data, self.fingerprint, self.classifier_steps, told
                )
            except Exception as error:  # the other numbers need none
                why = " ".join(f"{error}".split())
                self.notes[name] = f"not measurable here: its classifier could not be had ({why})"
                return None
        return self.networks["classifier"]

    def _rows(self, name: str) -> np.ndarray | None:
        return self.in_order(name).cpu().numpy() if len(getattr(self, name)) else None

    def _inception_scores(self, name: str, features: np.ndarray) -> dict[str, float]:
        bias = name.endswith("biased")
        kl = kl_of_features(features, self.networks["inception"], self.splits, bias)
        self.kept[InceptionScore(bias=bias).array] = kl
        found = score(kl, self.splits)
        return {name: found.mean, f"{name}_std": found.std}

    def _classifier_score(self, name: str, logits: np.ndarray) -> dict[str, float]:
        kl = divergences(logits[group] for group in groups_of(len(logits), self.splits))
        self.kept[ClassifierScore.array] = kl
        found = score(kl, self.splits)
        accuracy = self.networks["classifier"].accuracy
        return {name: found.mean, f"{name}_std": found.std, "classifier_accuracy": accuracy}

    def _fid(self, name: str, features: np.ndarray) -> dict[str, float]:
        terms = distances.fid_terms(*map(distances.statistics, (features, self.real_features())))
        self.kept["fid_terms"] = terms
        return {name: float(terms.sum())}

    def _kid(self, name: str, features: np.ndarray) -> dict[str, float]:
        each = distances.kid_subsets(features, self.real_features(), self.subsets, self.subset_size)
        self.kept["kid_subsets"] = each
        return {name: float(each.mean()), "kid_std": float(each.std())}

    def _precision_recall(self, name: str, features: np.ndarray) -> dict[str, float]:
        both = distances.precision_recall(features, self.real_features(), self.neighbours)
        return dict(zip(("precision", "recall"), both, strict=True))

    def real_features(self) -> np.ndarray:
        """Of the real images, (N, 2048), from the cache as far as they are there."""
        if "real" not in self.networks:
            self.networks["real"] = references.features(
                self.real,
                self.fingerprint,
                self.networks["inception"],
                next(self.networks["inception"].parameters()).device,
                self._told("features of real images"),
            )
        return self.networks["real"]

    def _told(self, what: str) -> Callable[[int, int], None] | None:
        return (lambda done, of: self.progress(what, done, of)) if self.progress else None


class Judged(NamedTuple):
    """What was found of a run's samples, by the names of its metrics.

    Attributes:
        numbers: those that can be had.
        notes: why others cannot.
        ids: what each number must share with another to be compared.
        arrays: what scores can be computed from again.
    """

    numbers: dict[str, float]
    notes: dict[str, str]
    ids: dict[str, str]
    arrays: dict[str, np.ndarray]


class OfSamples:
    """The quality of a run's samples, as the harness asks for it at the run's end.

    Real images are all of the training images; each number is called `test/` and its name.

    Args:
        samples: how many are drawn.
        splits: groups of the scores.
        metrics: of NAMES.
    """

    def __init__(
        self, samples: int = 50_000, splits: int = 10, metrics: Sequence[str] = NAMES
    ) -> None:
        if type(samples) is not int or samples < splits:
            raise MetricError(f"samples is {samples!r}; {splits} splits need as many or more")
        self.samples, self.splits, self.metrics = samples, splits, tuple(metrics)

    @property
    def id(self) -> str:
        return f"sample_quality/1 of {self.samples}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"test/{name}" for name in self.metrics)

    def judge(
        self,
        sample: Callable[[int], Tensor],
        data: Any,
        most: int | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Judged:
        """
        Args:
            sample: draws so many images in [0, 1].
            data: whose images("train") are the real ones; targets(split), if it has that, are their
                classes.
            most: at most so many samples, and no fewer than `splits`: for trying things out.
            progress: told what is done, how much of it, and of how much.

        Raises:
            MetricError: the samples are no images; see `SampleQuality.update`.
        """
        n = self.samples if most is None else max(self.splits, min(self.samples, most))
        quality = SampleQuality(
            real=lambda: data.images("train"),
            fingerprint=f"{len(data.images('train'))} training images of {data.fingerprint[:16]}",
            splits=self.splits,
            metrics=self.metrics,
            data=partial(labelled, data) if hasattr(data, "targets") else None,
            subset_size=min(1000, n, len(data.images("train"))),
            progress=progress,
            classifier_steps=classifier_score.STEPS if n > TRIAL else 10,
        )
        drawn = sample(n)
        for at in range(0, n, PART):
            if progress:
                progress("features of samples", at, n)
            quality.update(drawn[at : at + PART])
        numbers = quality.compute()
        return Judged(
            {f"test/{name}": value for name, value in numbers.items()},
            {f"test/{name}": why for name, why in quality.notes.items()},
            {f"test/{name}": id for name, id in quality.ids().items() if name in numbers},
            {name: x.astype(np.float32) for name, x in quality.kept.items()},
        )


def labelled(data: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and classes, of training and of test."""
    return tuple(of(split) for split in ("train", "test") for of in (data.images, data.targets))


def _scored(metric: InceptionScore, network: str) -> str:
    metric.network = network
    return metric.id
