"""What a human test shows: samples of a trained run, and real images of the same size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_gen.harness import trained
from lit_gen.harness.human.trial import Pixels
from lit_gen.harness.record import Record
from lit_gen.harness.spec import Spec, UserError
from lit_gen.harness.verdicts.verdict import started
from lit_gen.harness.watch import at_rest
from lit_gen.harness.words import plural

POOL = 1000  # images of each kind, of which every rater sees some: few are seen by several
SEEN = 100  # samples that are left out: samples.png, in reports and in MLflow, shows the first 100
SEED = 1606  # of the samples, and of which real images are taken
SPLIT = "test"
TOLERANCE = 1e-3  # beyond [0, 1], for what rounding does to a tanh


def pools(
    spec: Spec,
    record: Record,
    folder: Path,
    root: Path,
    data_dir: str | None,
    fewest: int,
    feedback: bool,
) -> tuple[Pixels, Pixels, dict[str, Any]]:
    """Real and generated images, at most POOL of each, and what the record says about them.

    The tests with and without feedback share none: feedback tells which images are generated, and
    a rater may take part in both.

    Args:
        fewest: of each kind, that a rater needs.
        feedback: which of the two tests it is for.

    Returns:
        (N, H, W) or (N, H, W, 3) each, and `about`.

    Raises:
        UserError: the model has no samples or the data no images, or they cannot be compared.
    """
    model, data = trained.restored(spec, record, folder, root, data_dir)
    if not hasattr(model, "sample"):
        raise UserError(
            f"{type(model).__name__} has no method sample(n), so there is nothing to show. A human "
            "test is of a model that generates images."
        )
    if not hasattr(data, "images"):
        raise UserError(
            f"{type(data).__name__} has no method images(split) that gives real images, so there "
            "is nothing to tell the samples from. Choose a reproduction on images."
        )
    data.prepare_data()
    data.setup("fit")
    real = np.asarray(data.images(SPLIT).cpu())
    count = min(POOL, len(real) // 2)
    if count < fewest:
        raise UserError(
            f"A test takes {plural(count, 'real image')} of the {len(real)} in {SPLIT}, as others "
            f"are for the one with feedback; a rater sees {fewest} of them. Give --images "
            f"{2 * count} or fewer."
        )
    both = 2 * count
    with at_rest(model):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        # `sample` has a noise of its own, so the first of these may be the very images that raters
        # know from the run's page.
        drawn = model.sample(SEEN + both)
    generated = quantized(torch.as_tensor(drawn), type(model).__name__, SEEN + both)[SEEN:]
    if generated.shape[1:] != real.shape[1:]:
        raise UserError(
            f"Samples are {generated.shape[1:]}, real images {real.shape[1:]} (C, H, W): anyone "
            "could tell them apart by that. Choose data of the samples' size."
        )
    part = slice(count, both) if feedback else slice(count)
    chosen = np.random.default_rng(SEED).choice(len(real), both, replace=False)[part]
    about = {
        "run": record.name,
        "run_started": started(record),
        "spec_hash": record.spec_hash,
        "status": record.status,
        "epochs": record.epochs,
        "max_epochs": record.max_epochs,
        "dataset": str(getattr(data, "dataset", "")),
        "pool": {"of each kind": count, "seed": SEED, "real images": SPLIT, "left out": SEEN},
    }
    return _shown(real[np.sort(chosen)]), _shown(generated[part]), about


def quantized(samples: torch.Tensor, who: str, count: int) -> Pixels:
    """Samples (n, C, H, W) in [0, 1] as the data sets' bytes.

    Raises:
        UserError: they are fewer than `count`, or something else.
    """
    shape = tuple(samples.shape)
    if samples.ndim != 4 or shape[1] not in (1, 3) or not samples.is_floating_point():
        raise UserError(
            f"{who}.sample({count}) gave {samples.dtype} {shape}; it must give floats "
            f"(n, C, H, W) with C = 1 or 3."
        )
    if len(samples) < count:
        raise UserError(
            f"{who}.sample({count}) gave {plural(len(samples), 'image')}; the test needs {count}."
        )
    x = samples[:count].detach().double().cpu().numpy()
    if wrong := int((~np.isfinite(x)).any(axis=(1, 2, 3)).sum()):
        raise UserError(
            f"{wrong} of {count} samples of {who} have pixels that are not finite. Show samples of "
            "a run that has not diverged."
        )
    if x.min() < -TOLERANCE or x.max() > 1 + TOLERANCE:
        raise UserError(
            f"The samples of {who} lie in [{x.min():.4g}, {x.max():.4g}]; images are in [0, 1]. "
            "Have `sample` scale them."
        )
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def _shown(images: Pixels) -> Pixels:
    """(N, C, H, W) -> (N, H, W, 3), or (N, H, W) of grey ones, as PNG has them."""
    last = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(last[..., 0] if last.shape[-1] == 1 else last)
