"""Predictions for the images of a bank, each by all the other images, in closed form: what labels are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..method.words import Vectors, WordBank
from ..system.threads import one_torch_thread
from .kernel import KernelSystem
from .word_head import WordHead

# Images that are scored at once.
_BLOCK = 1024


@one_torch_thread()
def left_out_predictions(head: WordHead, bank: WordBank, vectors: Vectors, labels: sparse.csr_array) -> NDArray[np.float32]:
    """ŷ (N, W) of the 0/1 labels: for each image what the regression of all the others predicts, 0 for words without an image.

    A ridge regression's prediction for image i without image i is (ŷ_i − h_i·y_i)/(1 − h_i), h_i being its leverage, so one
    solution serves all N. The bias ȳ is that of all images.

    Args:
        head: ``ridge`` or ``kernel``, settled by the bank.
        bank: of these N images and no other, in this order.
        vectors: (N, D).
        labels: (N, W) 0/1.
    """
    system, known = head.solved(bank)
    share = system.counts[known] / len(vectors)
    found = np.zeros(labels.shape, np.float32)
    columns = known.cpu().numpy()
    for start in range(0, len(vectors), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(vectors)))
        if isinstance(system, KernelSystem):
            scores = system.left_out_scores(rows, own=True)[:, known]
        else:
            given: Any = torch.from_numpy(labels[rows][:, columns].toarray())
            scores = system.left_out_scores(torch.as_tensor(vectors[rows]), given.to(known.device), known)
        found[rows[0] : rows[-1] + 1, columns] = (scores + share).cpu().numpy()
    return found
