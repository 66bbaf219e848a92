"""FID and KID of real CIFAR-10 images: all training images against test images.

python tests/benchmarks/real_fid.py [--images 10000] [--data-dir FOLDER]

A check of the whole chain (weights, resizing, statistics) by a known answer: about 3.15 for all
10,000 test images. It takes two hours on a CPU core the first time; the features of the training
images are kept in LIT_GEN_CACHE, and a run that is stopped goes on from them.
"""

import argparse
import json

import torch

from lit_gen.datamodules.few_labels import SemiSupervisedCIFAR10
from lit_gen.metrics.sample_quality import OfSamples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = SemiSupervisedCIFAR10(data_dir=options.data_dir)
    data.prepare_data()
    data.setup("fit")
    metric = OfSamples(options.images, metrics=("fid", "kid"))
    found = metric.judge(lambda n: data.images("test")[:n], data, progress=told)
    print(json.dumps({"numbers": found.numbers, "ids": found.ids} | found.notes, indent=1))


def told(what: str, done: int, of: int) -> None:
    print(f"{what}: {done:,} of {of:,}", flush=True)


if __name__ == "__main__":
    main()
