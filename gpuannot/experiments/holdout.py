"""The one way in which training images are held out: for the search of settings, and of the baselines' hyper-parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError


def holdout_split(images: int, holdout: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to learn from and positions to hold out, both ascending; ``holdout`` of ``images`` are drawn uniformly.

    Raises:
        ValueError: a hold-out that leaves nothing to learn from, or of less than one image.
    """
    if not 1 <= holdout < images:
        raise InvalidArgumentError(f"a hold-out of {holdout} from {images} images is not possible; choose 1…{images - 1}")
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[holdout:]), np.sort(order[:holdout])
