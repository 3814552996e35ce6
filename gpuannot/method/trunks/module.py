"""A torch module of the user's own, cut at a named submodule."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidArgumentError
from ...system.device import resolve_device
from ..weights import Preprocessing
from .base import LocalTrunk, module_sha256, network_dtype


class _Reached(Exception):
    """The last layer has been computed; what follows is not needed."""


class ModuleTrunk(LocalTrunk):
    """Local features of a torch module: what its named submodules put out.

    Args:
        module: takes (B, 3, H, W) floats. It is copied, and the copy set to ``eval``.
        layer: name of a submodule as :meth:`torch.nn.Module.named_modules` has it, or several joined by ``+``. It puts out a map
            (B, C, H', W'), or tokens (B, N, C).
        preprocessing: what the module was trained with; mean and std **in 0…255**.
        name: of the network, which is part of its identity; None takes the class name.
        prefix_tokens: class and register tokens before the patches, which are dropped.
        grid: (H', W') of the tokens at ``preprocessing.input_size``, where they are no square.
        channels_last: maps are (B, H', W', C).
        dtype: as for :func:`~gpuannot.method.trunks.base.network_dtype`. device: where it runs.

    Raises:
        ValueError: no such submodule, one that is not reached or puts out something else, tokens that are no grid, or a mean and
            std in 0…1.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str,
        preprocessing: Preprocessing,
        *,
        name: str | None = None,
        prefix_tokens: int = 0,
        grid: tuple[int, int] | None = None,
        channels_last: bool = False,
        dtype: str = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        if max(preprocessing.mean) <= 1 and max(preprocessing.std) < 1:
            raise InvalidArgumentError(
                f"mean {preprocessing.mean} and std {preprocessing.std} are those of pixels in 0…1; give them in 0…255, times 255"
            )
        name = f"module:{name or type(module).__name__}"
        kind = network_dtype(dtype, resolve_device(device))
        super().__init__(name, module_sha256(name, preprocessing, module), preprocessing, layer, dtype=kind, device=device)
        self.network = copy.deepcopy(module).eval().requires_grad_(False).to(self.device, kind)
        known = dict(self.network.named_modules())
        for one in self.layers:
            if one not in known:
                some = ", ".join(key for key in known if key)
                raise InvalidArgumentError(f"{name} has no submodule {one!r}; it has {some}")
        self._tokens = prefix_tokens, grid, channels_last
        self.measure(preprocessing.input_size)

    def maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """(B, H', W', C') of each layer."""
        found: dict[str, Any] = {}

        def keep(layer: str, output: Any) -> None:
            found[layer] = output
            if len(found) == len(self.layers):
                raise _Reached
            if isinstance(output, Tensor):
                found[layer] = output.clone()  # what follows may work in its place

        hooks = [
            self.network.get_submodule(layer).register_forward_hook(lambda module, inputs, output, layer=layer: keep(layer, output))
            for layer in self.layers
        ]
        try:
            self.network(pixels)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [layer for layer in self.layers if layer not in found]:
            raise InvalidArgumentError(f"{self.name}: its forward pass does not call {missing[0]}")
        return [as_map(self.name, layer, found[layer], *self._tokens) for layer in self.layers]


def as_map(
    name: str, layer: str, output: Any, prefix: int = 0, grid: tuple[int, int] | None = None, channels_last: bool = False
) -> Tensor:
    """(B, H', W', C') of what a layer puts out: a map (B, C', H', W') (``channels_last``: as it is) or tokens (B, N, C').

    Raises:
        ValueError: something else, or tokens that are no grid.
    """
    if isinstance(output, Tensor) and output.ndim == 4:
        return output if channels_last else output.permute(0, 2, 3, 1)
    if not isinstance(output, Tensor) or output.ndim != 3:
        shown = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InvalidArgumentError(f"{name}: {layer} puts out {shown}; expected (B, C, H', W') or (B, N, C)")
    tokens = output[:, prefix:]
    side = math.isqrt(tokens.shape[1])
    rows, columns = grid or (side, side)
    if rows * columns != tokens.shape[1]:
        raise InvalidArgumentError(
            f"{name}: {layer} puts out {output.shape[1]} tokens, which without {prefix} are no grid of {rows}×{columns}; "
            "state prefix_tokens (class and register tokens) or grid"
        )
    return tokens.unflatten(1, (rows, columns))
