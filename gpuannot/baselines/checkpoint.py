"""The state of a training as one safetensors file: tensors and a JSON description, replaced as a whole. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ModelFileError
from ..system.atomic_files import replacing

SCHEMA = "gpuannot.checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """A training after some whole epochs.

    Attributes:
        tensors: groups of named tensors: ``{"weights": {"classifier.6.bias": …}, …}``; an empty group is read back as none.
        settings: what is trained on which images, JSON: a training goes on only from a checkpoint of the same settings.
        state: what is no tensor, JSON.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    settings: Mapping[str, Any]
    state: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file under a temporary name, flush it and rename it, so that ``path`` is always a whole checkpoint.

        Raises:
            ModelFileError: the folder is missing or cannot be written to, or the disk is full.
        """
        header = {"schema": SCHEMA, "settings": self.settings, "state": self.state}
        tensors = {
            f"{group}/{name}": tensor.detach().cpu().contiguous()
            for group, members in self.tensors.items()
            for name, tensor in members.items()
        }
        try:
            with replacing(path) as partial:
                save_file(tensors, partial, {"gpuannot": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise ModelFileError(f"cannot write the checkpoint to {path} ({error})") from error

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, Any]) -> Checkpoint:
        """Read a checkpoint and hold its settings against ``settings``.

        Raises:
            ModelFileError: missing, cut, no checkpoint, or of other settings or images.
        """
        if not path.is_file():
            raise ModelFileError(f"{path}: no such checkpoint to go on from; call fit without resume to start anew")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("gpuannot", "null"))
                tensors: dict[str, dict[str, Tensor]] = {}
                for key in file.keys():  # noqa: SIM118
                    group, _, name = key.partition("/")
                    tensors.setdefault(group, {})[name] = file.get_tensor(key)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(f"{path} is not a whole checkpoint ({error}); remove it to start anew") from error
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            raise ModelFileError(f"{path} is a safetensors file, but not a checkpoint of this version of gpuannot ({SCHEMA})")
        stored, wanted = header["settings"], json.loads(json.dumps(settings))
        different = [
            f"{key} {stored.get(key)!r}, now {wanted.get(key)!r}"
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        ]
        if different:
            raise ModelFileError(
                f"{path} is the checkpoint of another training: {'; '.join(different)}; use the same settings and images, or "
                "another file"
            )
        return cls(tensors, stored, header["state"])
