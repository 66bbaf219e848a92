"""Inception features of images: lit_gen's extractor beside torch-fidelity's own extraction.

python tests/benchmarks/inception.py [--images 64] [--rounds 3] [--write]

Both get the same uint8 images and the same random weights: what weights say does not change the
time. torch-fidelity's side is its function that reads a data set, with its default batch size,
either reading in the same process (`fidelity`) or with its own worker processes
(`fidelity_workers`). At the end the features are compared.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import measure

NAMES = ("ours", "fidelity", "fidelity_workers")


def turn(options: argparse.Namespace) -> measure.Turn:
    import torch
    from inception_like import images, random_network

    from lit_gen.metrics import inception

    warnings.filterwarnings("ignore")
    shown = images(options.images, side=32)
    network = random_network().to(options.device)
    if options.turn == "ours":
        extractor = inception.Extractor(network, "random")

        def extract() -> torch.Tensor:
            return extractor(shown.to(options.device)).cpu()
    else:
        from torch_fidelity.utils import get_featuresdict_from_dataset as features_of

        class Images(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(shown)

            def __getitem__(self, i: int) -> torch.Tensor:
                return shown[i]

        alone = options.turn == "fidelity"

        def extract() -> torch.Tensor:
            found = features_of(Images(), network, 64, options.device == "cuda", alone, False)
            return found["2048"]

    extract()
    began = measure.now(options.device)
    found = extract()
    said = measure.per_step(began, measure.now(options.device), 1)
    torch.save(found, Path(options.folder, f"{options.turn}.pt"))
    return said


def apart(folder: str) -> float:
    """The largest difference of a feature, of the largest feature."""
    import torch

    found = [torch.load(Path(folder, f"{name}.pt"), weights_only=True) for name in NAMES]
    return max(float((found[0] - one).abs().max() / one.abs().max()) for one in found[1:])


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        measure.say(lambda: turn(options), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.argv += ["--folder", folder]
        said = measure.take_turns(__file__, NAMES, options.rounds)
        differ = apart(folder)
    found = measure.compare(said, options.images, "fidelity")
    print(measure.lines(found).replace("times bare", "times torch-fidelity"))
    print(f"features are apart by {differ:.1g} of the largest")
    if options.write:
        facts = {
            "options": {"rounds": options.rounds, "images": options.images},
            "machine": measure.machine(
                options.device, options.threads, ("torch", "torch-fidelity", "torchvision")
            ),
            "contenders": found,
            "apart": differ,
        }
        measure.write("inception", facts)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
