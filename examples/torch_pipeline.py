"""Annotation inside a torch pipeline: tensors in, tensors out, on a GPU where there is one.

    python examples/torch_pipeline.py model.safetensors FOLDER

A DataLoader decodes in processes of its own. On a GPU the copy of a batch, on a stream of its own, overlaps the trunk's work on
the one before; index and distance stay on the device until the end, where DLPack hands them to NumPy.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gpuannot import Annotator
from gpuannot.images.decode import decode_image


class Photos(Dataset):
    """Decoded images (3, S, S) uint8, warped as the trunk's preprocessing says."""

    def __init__(self, folder: str, size: int) -> None:
        self.paths, self.size = sorted(Path(folder).rglob("*.jpg")), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(decode_image(self.paths[number], self.size)).permute(2, 0, 1)


def on_device(batches: DataLoader, device: torch.device) -> Iterator[Tensor]:
    """The batches on the device; on a GPU each is copied while the one before is worked on."""
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    before = None
    for batch in batches:
        with torch.cuda.stream(copies):
            there = batch.to(device, non_blocking=True)
        if before is not None:
            yield before
        torch.cuda.current_stream(device).wait_stream(copies)
        there.record_stream(torch.cuda.current_stream(device))
        before = there
    if before is not None:
        yield before


def main(model: str, folder: str, k: int = 3) -> None:
    annotator = Annotator.load(model)
    photos = Photos(folder, annotator.config.input_size)
    loader = DataLoader(photos, batch_size=8, num_workers=2, pin_memory=annotator.device.type == "cuda")
    found = [annotator.annotate_tensor(batch, k) for batch in on_device(loader, annotator.device)]
    index = torch.cat([index for index, _ in found])
    distance = torch.cat([distance for _, distance in found])
    nearest = np.from_dlpack(index.cpu())
    for path, row, nearness in zip(photos.paths, nearest, distance.tolist(), strict=True):
        print(path.name, *(f"{annotator.vocabulary[word]} ({value:.0f})" for word, value in zip(row, nearness, strict=True)))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
