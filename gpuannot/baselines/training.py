"""Steps down the gradient of a network's trainable layers, by SGD or Adam, with the two losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidArgumentError
from ..system.environment import peak_memory


def sigmoid_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−(1/B) Σ_i Σ_w [y_iw log σ(z_iw) + (1 − y_iw) log(1 − σ(z_iw))]: each word a question of its own; both (B, W)."""
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)


def softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−(1/B) Σ_i Σ_w (y_iw / |y_i|) log softmax(z_i)_w: an image's words share its probability equally; both (B, W).

    An image without words adds nothing.
    """
    targets = labels / labels.sum(dim=1, keepdim=True).clamp_min(1)
    return -(targets * functional.log_softmax(logits, dim=1)).sum() / len(labels)


#: The optimiser of each start unless one is named.
OPTIMIZERS_OF = {"scratch": "adam", "finetune": "adam", "frozen": "sgd"}
#: Step sizes that train from each start. fc6 sees 25,088 values of pool5, most of one sign: longer steps leave units that never
#: answer again, and a constant answer. Frozen features have length 1, so their layer takes long steps.
LEARNING_RATES = {
    "sgd": {"scratch": 0.0003, "finetune": 0.001, "frozen": 5.0},
    "adam": {"scratch": 0.0001, "finetune": 0.00002, "frozen": 0.01},
}
WEIGHT_DECAYS = {"scratch": 0.0005, "finetune": 0.0005, "frozen": 0.00001}


def defaults(mode: str, optimizer: str | None, rate: float | None, decay: float | None) -> tuple[str, float, float]:
    """Optimiser, learning rate and weight decay: those given, or for None those of the mode, a key of :data:`OPTIMIZERS_OF`."""
    name = optimizer or OPTIMIZERS_OF[mode]
    check_choices(optimizer=(name, LEARNING_RATES))
    return name, LEARNING_RATES[name][mode] if rate is None else rate, WEIGHT_DECAYS[mode] if decay is None else decay


def check_choices(**given: tuple[str, Collection[str]]) -> None:
    """Raise InvalidArgumentError for a value, given by its name with what is known, that is not among that."""
    for what, (value, known) in given.items():
        if value not in known:
            raise InvalidArgumentError(f"{what} {value!r} is unknown; choose one of {', '.join(known)}")


def check_ranges(**given: tuple[float, ...]) -> None:
    """Raise InvalidArgumentError for a value, given by its name with its lowest and, where there is one, highest, out of them."""
    for what, (value, low, *high) in given.items():
        if not low <= value <= (high[0] if high else math.inf):
            most = f" and at most {high[0]}" if high else ""
            raise InvalidArgumentError(f"{what} = {value} must be at least {low}{most}")


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The number of the epoch with the highest F1 on the hold-out, at equal F1 with the lowest loss there."""
    best = max(history, key=lambda entry: (entry["holdout_f1"], -entry["holdout_loss"]))
    return int(best["epoch"])


def stalled(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether so many epochs have brought no better one; never without a hold-out."""
    if not history or "holdout_f1" not in history[-1]:
        return False
    return len(history) - best_epoch(history) >= patience


def most_memory(device: torch.device) -> int | None:
    """The most bytes that torch has held on the GPU, or for a CPU the process; None where the system does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


# Far below what a step can feel; a hundred more without a gradient leave a normal number.
_NEXT_TO_NOTHING = 1e-30

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sigmoid": sigmoid_loss, "softmax": softmax_loss}


class Trainer:
    """Steps of an optimiser on the parameters of ``model`` that require a gradient.

    Args:
        forward: inputs → logits (B, W), by ``model`` or a part of it.
        loss: a key of :data:`LOSSES`.
        optimizer: ``sgd`` with momentum, or ``adam`` (AdamW: its decay stands apart from the gradient).
        learning_rate: step size.
        momentum: of the running gradient, Adam's β₁; 0 for none.
        weight_decay: factor of the L2 penalty.
        dtype: None computes in the parameters' own type; bfloat16, or on CUDA float16 (with a scaled loss), is mixed precision:
            weights, loss and updates stay in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        loss: str,
        *,
        optimizer: str = "sgd",
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._forward, self._loss = forward, LOSSES[loss]
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._dtype, self._device = dtype, next(model.parameters()).device.type
        fused = self._device == "cpu" or None  # passes over fc6 and fc7 else take a tenth of a step
        parameters = list(self._parameters.values())
        common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "fused": fused}
        self._optimizer: torch.optim.Optimizer
        if optimizer == "sgd":
            self._optimizer = torch.optim.SGD(parameters, momentum=momentum, **common)
        else:
            self._optimizer = torch.optim.AdamW(parameters, betas=(momentum, 0.999), **common)
        self._scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update on one batch; the loss before the update, a scalar on the device."""
        self._optimizer.zero_grad()
        with self._autocast():
            logits = self._forward(inputs)
        loss = self.loss(logits, labels)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    @torch.inference_mode()
    def infer(self, inputs: Tensor) -> Tensor:
        """What the forward pass gives, in its own type."""
        with self._autocast():
            return self._forward(inputs)

    def predict(self, inputs: Tensor) -> Tensor:
        """Logits (B, W) float32."""
        return self.infer(inputs).float()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (B, W) of any floating type, computed in the labels' type."""
        return self._loss(logits.to(labels.dtype), labels)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the trained parameters, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self._parameters.items():
            value.copy_(weights[name])

    def memory(self) -> dict[str, Tensor]:
        """What the optimiser keeps of each parameter, by both names (its running gradient); empty before the first step."""
        return {
            f"{name} {kind}": kept
            for name, value in self._parameters.items()
            for kind, kept in self._optimizer.state[value].items()
            if kept is not None
        }

    def set_memory(self, memory: Mapping[str, Tensor]) -> None:
        for names, kept in memory.items():
            name, _, kind = names.partition(" ")
            parameter = self._parameters[name]
            like = torch.empty_like(parameter) if kept.shape == parameter.shape else torch.empty_like(kept)
            self._optimizer.state[parameter][kind] = like.copy_(kept)

    @torch.no_grad()
    def drop_subnormals(self) -> None:
        """Make zeros of what is next to nothing in the optimiser's memory.

        The running gradients of units that answer no image any more fall below float32's normal numbers, which processors multiply
        many times slower: they made AlexNet's epochs half as long again.
        """
        for kept in self.memory().values():
            kept.masked_fill_(kept.abs() < _NEXT_TO_NOTHING, 0)

    def scale(self) -> dict[str, Any]:
        """The state of float16's loss scale; empty where there is none."""
        return self._scaler.state_dict()

    def set_scale(self, state: Mapping[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, self._dtype, enabled=self._dtype is not None)
