"""Predictions of each image by all the others, against a regression solved anew without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from gpuannot.config import AnnotatorConfig
from gpuannot.heads.left_out import left_out_predictions
from gpuannot.heads.word_head import WordHead, new_bank

IMAGES, DIMENSION, WORDS = 41, 7, 5


def without(values: Any, labels: Any, image: int, penalty: float) -> Any:
    """The prediction for one image by a ridge regression with free bias on the others, ``values`` (N, N) being inner products."""
    others = np.delete(np.arange(len(values)), image)
    system = np.block([[values[np.ix_(others, others)] + penalty * np.eye(len(others)), np.ones((len(others), 1))],
                       [np.ones((1, len(others))), np.zeros((1, 1))]])  # fmt: skip
    solution = np.linalg.solve(system, np.vstack([labels[others], np.zeros((1, labels.shape[1]))]))
    return values[image, others] @ solution[:-1] + solution[-1]


@pytest.mark.parametrize("head", ["ridge", "kernel"])
def test_each_image_is_predicted_as_if_it_had_never_been_there(head: str) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((IMAGES, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float16).astype(np.float32)
    labels = (rng.random((IMAGES, WORDS)) < [0.5, 0.3, 0.1, 0.04, 0]).astype(np.float32)
    labels[0, 3], labels[:, 4] = 1, 0
    config = AnnotatorConfig(head=head, regularisation=0.3, balance=0.0, l2=True)
    bank = new_bank(config, tuple("abcde"), DIMENSION, "cpu")
    bank.partial_fit(vectors, sparse.csr_array(labels), np.arange(IMAGES)).flush()
    settled = WordHead(config)
    settled.settle(bank)
    found = left_out_predictions(settled, bank, vectors, sparse.csr_array(labels))
    products = vectors.astype(np.float64) @ vectors.T
    if head == "kernel":
        width = config.kernel_width
        products = np.exp(width * (products - 1)) / (1 - np.exp(-width))
    assert settled.penalty is not None
    expected = np.array([without(products, labels.astype(np.float64), image, settled.penalty) for image in range(IMAGES)])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not found[:, 4].any()
