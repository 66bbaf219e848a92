"""The README's table of benchmarks, made from results/*.json.

python tests/benchmarks/table.py
"""

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import measure

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"
STEP = {
    "bare": "bare PyTorch loop",
    "suite": "`reproduce`",
    "dataloader": "DataLoaders, three passes, `.item()`",
}
BOLTS = {
    "bare": "bare PyTorch loop",
    "dataloader": "bare loop on a DataLoader",
    "bolts": "lightning-bolts 0.7",
    "suite": "lit_gen in that Trainer",
}
GAIL = {
    "suite": "lit_gen in a bare Trainer",
    "peer": "{peer}, 1 environment",
    "peer8": "{peer}, 8 environments",
}
PEERS = {"trpo": ("TRPO", "sb3-contrib"), "gail": ("GAIL", "imitation")}
STEPS = {
    "players1": "1 process",
    "players2": "2 processes",
    "async4": "AsyncVectorEnv(4)",
}
TITLES = {"dcgan": "DCGAN of lightning-bolts", "vae": "VAE (ResNet-18) of lightning-bolts"}


def text() -> str:
    """What stands between the markers, as the results have it."""
    step, bolts = (
        json.loads((measure.RESULTS / f"{name}.json").read_text()) for name in ("step", "bolts")
    )
    lines = [
        "| training step of | as | ms a step | times bare | in CPU time | images/s | peak MB |",
        "|---|---|---|---|---|---|---|",
        *rows("improved_gan_mnist_semisup", step["contenders"], STEP),
    ]
    for name, of in bolts["models"].items():
        lines += rows(TITLES[name], of["contenders"], BOLTS)
    apart = " and ".join(f"{m['check']['apart']:.1g} ({n})" for n, m in bolts["models"].items())
    losses = " and ".join(f"{v:.4f}" for v in bolts["models"]["vae"]["check"]["test_loss"].values())
    paragraphs = [
        "Medians, in brackets the least and the greatest; each round's ratio is taken within that "
        "round. CPU time says what the work itself costs; where ratios in wall time scatter and "
        "those in CPU time do not, the machine was busy with other things. An image is one that a "
        "step reads.",
        f"First step: {conditions(step)}. {rates(step)}",
        f"Steps of lightning-bolts: {conditions(bolts)}. Bolts and the bare loop train alike: "
        f"in float64, three batches from equal weights and noise leave them apart by {apart} of "
        f"the way that they came, and with {losses} as losses on test images.",
    ]
    paragraphs.append(inception(measure.read("inception")))
    paragraphs.append(infogan(measure.read("infogan_cpu")))
    paragraphs.append(vime(measure.read("vime")))
    wrapped = [textwrap.fill(p, 104, break_on_hyphens=False) for p in paragraphs]
    parts = ["\n".join(lines), *wrapped, *control(measure.read("gail"))]
    return "\n\n".join(parts) + "\n"


def inception(facts: dict[str, Any]) -> str:
    """What features of images cost beside torch-fidelity's own extraction."""
    ours, theirs = (facts["contenders"][name] for name in ("ours", "fidelity"))
    machine, options = facts["machine"], facts["options"]
    return (
        f"Inception features, for Inception score, FID and KID: {ours['images_per_s']} images/s, "
        f"torch-fidelity {theirs['images_per_s']}: {with_range(ours['ratio'], '.2f')} of its time, "
        f"and features that agree to {facts['apart']:.0e} of the largest ({options['rounds']} "
        f"rounds of {options['images']} images, {machine['processor']}, {machine['threads']} "
        f"thread, torch-fidelity {machine['packages']['torch-fidelity']}, {facts['date']})."
    )


def infogan(facts: dict[str, Any]) -> str:
    """How long InfoGAN's training on MNIST takes, and what other ways of writing it would."""
    whole, *others = facts["contenders"].items()
    ms = whole[1]["ms"]["median"]
    ways = " and ".join(
        f"{with_range(of['ratio'], '.2f')} ({name.replace('_', ' ')})" for name, of in others
    )
    return (
        f"InfoGAN on MNIST: {ms:.0f} ms an iteration, which updates both players on 128 images, or "
        f"{ms * 5000 / 60e3:.0f} minutes for all 5,000; of this time it takes {ways} "
        f"({conditions(facts)})."
    )


def vime(facts: dict[str, Any]) -> str:
    """What VIME's written-out gradients save of an iteration."""
    ours, theirs = (facts["contenders"][name] for name in ("ours", "autograd"))
    parts = ", ".join(
        f"{said} {ours[part]['median']:.0f}"
        for part, said in (
            ("play", "playing"),
            ("dynamics", "500 updates of the dynamics model"),
            ("gain", "information gain"),
            ("policy", "the policy's step"),
        )
    )
    ratio = facts["ratio"]
    return (
        f"VIME on MountainCar: {ours['iteration']['median']:.0f} ms of CPU time an iteration of "
        f"5,000 steps ({parts}, the rest mostly the baseline's fit); with the dynamics model by "
        f"autograd {theirs['iteration']['median']:.0f}, {with_range(ratio['iteration'], '.1f')} "
        f"times as much ({with_range(ratio['dynamics'], '.1f')} in its updates, "
        f"{with_range(ratio['gain'], '.1f')} in the gain; {conditions(facts)})."
    )


def control(facts: dict[str, Any]) -> list[str]:
    """Tables of TRPO, GAIL and playing, as far as they were measured, and what they say."""
    parts, learned = [], [name for name in facts if name.startswith(tuple(PEERS))]
    if learned:
        lines = [
            "| iteration on CartPole of | as | times lit_gen in CPU time | in time | CPU ms | "
            "steps | mean return after them | MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in learned:
            kind = name.rstrip("0123456789")
            title, peer = PEERS[kind]
            count = name.removeprefix(kind)
            if count:
                title += f", {count} trajector{'y' if count == '1' else 'ies'}"
            for contender, of in facts[name]["contenders"].items():
                cells = (
                    title if contender == "suite" else "",
                    GAIL[contender].format(peer=peer),
                    "1" if contender == "suite" else with_range(of["cpu_ratio"], ".1f"),
                    "1" if contender == "suite" else with_range(of["ratio"], ".1f"),
                    with_range(of["cpu_ms"], ".0f"),
                    f"{min(of['steps']):,}",
                    with_range(of["evaluated"], ".0f"),
                    f"{of['peak_memory_mb']:,}",
                )
                lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
        parts.append("\n".join(lines))
    if "steps" in facts:
        heads = " | ".join(f"{words}, CPU \N{MICRO SIGN}s a step" for words in STEPS.values())
        lines = [f"| playing | {heads} |", "|---|---|---|---|"]
        for task, of in facts["steps"]["contenders"].items():
            cells = (
                f"{of[name]['cpu_us']['median']:.0f}"
                + (f" ({with_range(of[name]['cpu_ratio'], '.2f')})" if name != "players1" else "")
                for name in STEPS
            )
            lines.append(f"| {task} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    if parts:
        machine = facts["machine"]
        names = ("torch", "gymnasium", "stable-baselines3", "sb3-contrib", "imitation")
        versions = ", ".join(f"{n} {v}" for n in names if (v := machine["packages"].get(n)))
        rounds = ", ".join(
            f"{facts[name]['options']['rounds']} ({name})"
            for name in [*learned, "steps"]
            if name in facts
        )
        threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
        said = (
            "TRPO and GAIL: the peers have the networks and constants of ours, as far as their "
            "interfaces allow (top of tests/benchmarks/gail.py). "
            if learned
            else ""
        )
        said += (
            "Playing: CPU time of all its processes, in parentheses times that of 1 process. "
            if "steps" in facts
            else ""
        )
        said += (
            f"Rounds: {rounds}; {machine['processor']}, {machine['cores']} cores, {threads}, "
            f"{versions}, {facts['date']}."
        )
        parts.append(textwrap.fill(said, 104, break_on_hyphens=False))
    return parts


def rows(title: str, contenders: dict[str, Any], words: dict[str, str]) -> list[str]:
    found = []
    for name, of in contenders.items():
        ratio, cpu = (
            "1" if name == "bare" else with_range(of[kind], ".2f")
            for kind in ("ratio", "cpu_ratio")
        )
        digits = ".1f" if of["ms"]["median"] < 1000 else ".0f"
        cells = (words[name], with_range(of["ms"], digits), ratio, cpu, f"{of['images_per_s']:,}")
        peak = of.get("peak_gpu_memory_mb", of["peak_memory_mb"])
        first = "| |" if found else f"| {title} |"
        found.append(f"{first} {' | '.join(cells)} | {peak:,} |")
    return found


def with_range(values: dict[str, Any], digits: str) -> str:
    median, least, most = (f"{values[key]:{digits}}" for key in ("median", "min", "max"))
    return f"{median} [{least}, {most}]"


def conditions(facts: dict[str, Any]) -> str:
    machine, options = facts["machine"], facts["options"]
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    versions = ", ".join(
        f"{name} {machine['packages'][name]}" for name in ("torch", "pytorch-lightning")
    )
    timed = f" of {options['steps']} steps" if "steps" in options else " of an epoch"
    return (
        f"{options['rounds']} rounds{timed} each, {device}{machine['processor']}, {threads}, "
        f"{versions}, {facts['date']}"
    )


def rates(step: dict[str, Any]) -> str:
    """What a step computes in a second, against what a matrix product does."""
    name = step["options"]["matmul_precision"]
    most = step["ceiling_gflops"][name]
    said = ", ".join(
        f"{'`reproduce`' if contender == 'suite' else contender} {of['gflops']:.0f} "
        f"({of['gflops'] / most:.0%})".replace("%", "\N{NO-BREAK SPACE}%")
        for contender, of in step["contenders"].items()
    )
    return (
        f"It is {step['gflop_per_step']:.2f} GFLOP; a large matrix product in float32 ('{name}' "
        f"precision) reaches {most} GFLOP/s here, the steps: {said}."
    )


def write() -> None:
    before = README.read_text()
    after, found = re.subn(
        f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", lambda _: text(), before, flags=re.S
    )
    if found != 1:
        sys.exit(f"README.md should have one {BEGIN.strip()} and one {END}; it has {found}.")
    README.write_text(after)


if __name__ == "__main__":
    write()
