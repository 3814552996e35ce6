"""Annotation of decoded batches as one replayable CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DeviceError
from .word_model import WordModel

_WARM_UP_RUNS = 3


class CapturedAnnotation:
    """``annotator.annotate_tensor`` for one batch shape, recorded once and replayed with a single launch.

    The graph reads and writes fixed memory: ``images`` is where the batch goes, ``index`` and ``distance`` are where the answer
    stands until the next replay. It holds the model as it was when captured, whatever becomes of that; capture again after ``fit``
    or ``partial_fit``.

    Attributes:
        images: (B, 3, S, S) uint8. index: (B, k) int64. distance: (B, k) float32. All on the annotator's device.
    """

    def __init__(self, model: WordModel, batch_shape: tuple[int, int, int, int], k: int | None) -> None:
        if model.device.type != "cuda":
            raise DeviceError(f"CUDA graphs need a CUDA device, this model runs on {model.device}")
        k = model.check_k(k)
        with torch.cuda.device(model.device):
            images = torch.zeros(batch_shape, dtype=torch.uint8, device=model.device)
            self.images = images.contiguous(memory_format=torch.channels_last)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # compiles kernels and chooses algorithms, which a capture must not
                for _ in range(_WARM_UP_RUNS):
                    model.annotate_tensor(self.images, k)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # A stream of this device: torch's own for captures is one for all devices, of the one that was captured on first.
            with torch.cuda.graph(self._graph, stream=side):
                self.index, self.distance = model.annotate_tensor(self.images, k)
            # A graph knows addresses alone, and a change of the model puts other tensors in the place of these.
            projection = model.encoder.projection_ if model.config.projection else None
            self._reads = model.encoder.trunk, model.encoder.device_stages(), projection, model.ranker

    def replay(self) -> tuple[Tensor, Tensor]:
        """Annotate what :attr:`images` holds, on the current stream, without a wait: ``(index, distance)``."""
        self._graph.replay()
        return self.index, self.distance

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Copy a batch (B, 3, S, S) uint8 into :attr:`images` and replay. The result is overwritten by the next call."""
        if images.shape != self.images.shape or images.dtype != torch.uint8:
            raise ValueError(
                f"this graph was captured for uint8 {tuple(self.images.shape)}, got {images.dtype} {tuple(images.shape)}; "
                "pad the batch, or capture another shape"
            )
        self.images.copy_(images, non_blocking=True)
        return self.replay()
