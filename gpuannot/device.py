"""Which device the stages run on."""

from __future__ import annotations

import torch

from .errors import DeviceError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device for ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        DeviceError: a device that this version of gpuannot, or this machine, cannot serve.
    """
    name = str(device)
    if name in ("auto", "cpu"):
        return torch.device("cpu")
    if name.startswith("cuda"):
        raise DeviceError(f'device {name!r}: this version of gpuannot runs its stages on the CPU; use device="auto" or "cpu"')
    raise DeviceError(f'device {name!r} is unknown; use "auto" or "cpu"')
