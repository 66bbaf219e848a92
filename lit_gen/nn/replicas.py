"""Several models of one class as one batched computation.

Small networks leave a GPU idle, and most of what surrounds their arithmetic is paid once for all. A
model that works on stacked parameters (K, ...) and batches (K, B, ...), by writing its batch and
feature axes as -2 and -1, trains K runs at once: each with its own weights, data, random numbers
and gradients, as the sum of their losses has no term of two.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Generator, Tensor, nn

from lit_gen.nn import draws


def stack(models: Sequence[LightningModule], streams: Sequence[Generator]) -> LightningModule:
    """One module of the models' class whose parameters and buffers are theirs, stacked: (K, ...).

    Its training draws the random numbers of model k from stream k; what it logs, of shape (K,), is
    logged as `replica_k/NAME`.

    Args:
        models: of the same architecture and hyperparameters; they are left as they are.
        streams: generators on the device that trains.

    Raises:
        ValueError: they leave the optimization to Lightning, which takes one loss.
    """
    if models[0].automatic_optimization:
        raise ValueError(
            f"{type(models[0]).__name__} has automatic_optimization; replicas need a training_step "
            "that sums its losses (K,) itself"
        )
    whole = copy.deepcopy(models[0])
    whole.__class__ = type(f"Stacked{type(whole).__name__}", (_Stacked, type(whole)), {})
    whole.streams = list(streams)
    for name, module in whole.named_modules():
        theirs = [model.get_submodule(name) for model in models]
        for key, p in module.named_parameters(recurse=False):
            values = torch.stack([getattr(m, key).detach() for m in theirs])
            setattr(module, key, nn.Parameter(values, p.requires_grad))
        for key, _ in module.named_buffers(recurse=False):
            setattr(module, key, torch.stack([getattr(m, key) for m in theirs]))
    return whole


class _Stacked(LightningModule):
    streams: list[Generator]

    def on_train_start(self) -> None:
        with draws.streams(self.streams):
            super().on_train_start()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with draws.streams(self.streams):
            return super().training_step(*args, **kwargs)

    def log(self, name: str, value: Tensor, *args: Any, **kwargs: Any) -> None:
        for k, one in enumerate(value):
            super().log(f"replica_{k}/{name}", one, *args, **kwargs)
