"""What training several runs as one computation gains over a process for each.

    python tests/benchmarks/replicas.py [--network small] [--replicas 2,4,8] [--rounds 3]

Both ways are the real command's machinery (`execute_together` and `execute`), on the real data, on
the same cores: K replicas in one process with all threads, or as many processes at a time as there
are cores, one thread each. They take turns; quoted are runs x steps a second between the end of the
first epoch and that of the last. `small` is a network of 13,000 weights at batches of 20.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORKS = {  # name: reproduction, epochs of how many steps, changes
    "improved_gan": ("improved_gan_mnist_semisup", 2, 250, {"validation": 100}),
    "small": (str(Path(__file__).parents[1] / "small/network.yaml"), 3, 2000, {"validation": 100}),
}
ONE = """
import json, sys, time
from pathlib import Path
from lit_gen.harness.replicas import execute_together
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import Seed, find

given = json.loads(sys.argv[1])
spec = find(given["name"])
cell = spec.default_setting, spec.default_protocol
runs = [Run(spec, *cell, Seed(s, s), given["overrides"]) for s in given["seeds"]]
ends = []
where = (Path(given["folder"]), given["device"], given["threads"], None, lambda: None)
tell = dict(on_epoch=lambda record: ends.append((record.epochs, time.time())))
if given["together"]:
    execute_together(runs, len(runs), *where, **tell)
else:
    execute(runs[0], *where, **tell)
first = max(t for epoch, t in ends if epoch == 1)
last = max(t for epoch, t in ends if epoch == given["epochs"])
print(json.dumps([first, last]))
"""


def start(given: dict) -> subprocess.Popen:
    command = [sys.executable, "-c", ONE, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", default="2,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--network", choices=NETWORKS, default="improved_gan")
    options = parser.parse_args()
    name, epochs, per_epoch, changes = NETWORKS[options.network]
    overrides = {
        "trainer": {"max_epochs": epochs, "limit_train_batches": per_epoch},
        "data": {"init_args": changes},
    }
    rates: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for k in [0, *map(int, options.replicas.split(","))]:
            with tempfile.TemporaryDirectory() as folder:
                given = {"name": name, "overrides": overrides, "epochs": epochs}
                given |= {"device": options.device}
                given |= {"folder": folder, "together": k > 0}
                if k:
                    group = [given | {"seeds": list(range(1, k + 1)), "threads": options.cores}]
                else:
                    seeds = range(1, options.cores + 1)
                    group = [given | {"seeds": [seed], "threads": 1} for seed in seeds]
                processes = [start(one) for one in group]
                spans = [json.loads(process.communicate()[0]) for process in processes]
            seconds = max(last for _, last in spans) - max(first for first, _ in spans)
            steps = (epochs - 1) * per_epoch * (k or options.cores)
            way = f"{k} replicas" if k else f"{options.cores} processes"
            rates.setdefault(way, []).append(steps / seconds)
    base = statistics.median(next(iter(rates.values())))
    for way, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{way:12} {middle:7.1f} steps/s [{min(found):.1f}, {max(found):.1f}], "
            f"{1e3 / middle:.2f} ms a step of one run, ratio {middle / base:.2f}"
        )


if __name__ == "__main__":
    main()
