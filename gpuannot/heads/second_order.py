"""Second-order pooling: which components of a layer come together over an image's patches, put behind its VLAD vectors.

VLAD keeps how the descriptors lie around the visual words, and of components that are strong together only what the words hold
apart. Their second moments say it for every pair; the matrix square root brings the few large ones down to the many small ones
(Li, Xie, Wang and Gao, "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", 2018, whose iteration this is).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..method.vlad import LayerVlad, Vlad
from ..system.precision import exact_float32
from ..system.threads import for_blocks
from .projection import Block, bfloat16_parts

#: Steps of the iteration: eigenvalues above a hundredth of their sum get their roots by it, smaller ones a part of them.
STEPS = 7
_LEAST = 1e-30
# Descriptors whose squares add up to more are left out, as VLAD leaves out those without a nearest centre: sums of theirs overflow.
_LARGEST = 1e30
# Images that a thread takes at once.
_IMAGES = 8
# What is the same for all patches says half as much as VLAD: by hold-outs of Corel5k, 0.2 and 0.5 gave more than 1.
_WHOLE_POWER = 0.5


@dataclass(frozen=True)
class MatrixRoots:
    """R = S^½ of each layer's S = (1/P)·Σ_p f_p·f_pᵀ, f being the first t of its n components: R's upper triangle, row by row, what
    is off the diagonal times √2, at length 1; the layers behind each other. NaN, infinite and huge descriptors count as zeros.

    So ⟨r, r'⟩ = tr(R·R')/(‖R‖·‖R'‖). With Y = S/tr S and Z = I, R is √(tr S)·Y after seven steps T = ½(3I − Z·Y), Y ← Y·T,
    Z ← T·Z. What is zero stays zero.

    Args:
        components: t, at most n.
        n_components: n, the components of a layer.
    """

    components: int
    n_components: int

    def encode(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, L·t(t + 1)/2) float32 of descriptors (B, P, L·n); an image's bits do not depend on the others."""
        identity, upper = np.eye(self.components, dtype=np.float32), np.triu_indices(self.components)
        found = np.empty((len(descriptors), self._layers(descriptors) * len(upper[0])), np.float32)

        def root(start: int, stop: int) -> None:
            with np.errstate(over="ignore", invalid="ignore"):  # of what is left out
                found[start:stop] = self._rooted(descriptors[start:stop], np, identity, *upper)

        for_blocks(root, len(descriptors), _IMAGES)
        return found

    @exact_float32()
    def encode_cuda(self, descriptors: Tensor) -> Tensor:
        """(B, L·t(t + 1)/2) float32 of descriptors (B, P, L·n) of any float type, as :meth:`encode` makes them, in torch on their
        device, without a wait for it."""
        size, device = self.components, descriptors.device
        identity = torch.eye(size, dtype=torch.float32, device=device)
        return self._rooted(descriptors.float(), torch, identity, *torch.triu_indices(size, size, device=device))

    def _layers(self, descriptors: Any) -> int:
        """L, of descriptors (..., L·n)."""
        return descriptors.shape[-1] // self.n_components

    def _rooted(self, descriptors: Any, xp: Any, identity: Any, first: Any, second: Any) -> Any:
        """In NumPy or torch; ``first`` and ``second`` are the indices of the upper triangle."""
        layers, one = self._layers(descriptors), identity[:1, 0]  # an array: it keeps NumPy's numbers float32
        f = descriptors.reshape(*descriptors.shape[:2], layers, self.n_components)[..., : self.components]
        f = xp.where((f * f).sum(-1)[..., None] < _LARGEST, f, 0 * one).swapaxes(1, 2)  # (B, L, P, t)
        root = newton_schulz(f.swapaxes(2, 3) @ f / max(1, f.shape[2]), identity)
        rows = root[..., first, second] * xp.where(first == second, one, 2**0.5 * one)
        rows = rows / (rows * rows).sum(-1)[..., None].clip(min=_LEAST) ** 0.5
        return rows.reshape(len(descriptors), layers * len(first))

    def patch_contributions(
        self,
        descriptors: NDArray[np.float32],  # (P, L·n)
        weights: NDArray[np.floating],  # (k, L·t(t + 1)/2)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The vector of one image, what each patch adds to w·vector (k, P), and what the iteration's rounding adds (k,).

        R is homogeneous of degree ½ in S, so tr(W·R) = 2·tr(X·S) with R·X + X·R = W: a sum over patches, (2/P)·f_pᵀ·X·f_p. Its
        length is held at the image's.
        """
        vector = self.encode(descriptors[None])[0].astype(np.float64)
        by_layer = descriptors.reshape(len(descriptors), self._layers(descriptors), self.n_components)
        exact = by_layer[..., : self.components].astype(np.float64)
        exact[~(np.square(exact).sum(axis=-1) < _LARGEST)] = 0
        first, second = np.triu_indices(self.components)
        patches = np.zeros((len(weights), len(descriptors)))
        for layer, share in enumerate(np.split(np.asarray(weights, dtype=np.float64), exact.shape[1], axis=1)):
            f = exact[:, layer]
            values, basis = np.linalg.eigh(f.T @ f / max(1, len(f)))
            roots = np.sqrt(values.clip(min=0))
            apart = roots[:, None] + roots
            inverse = np.divide(1, apart, out=np.zeros_like(apart), where=apart > 1e-9 * max(roots.max(), _LEAST))
            given = f @ basis
            for number, row in enumerate(share):
                w = np.zeros((self.components, self.components))
                w[first, second] = np.where(first == second, row / 2, row / 2**0.5)
                solved = (basis.T @ (w + w.T) @ basis) * inverse
                patches[number] += np.einsum("pi,ij,pj->p", given, solved, given) * 2 / (len(f) * (np.linalg.norm(roots) or 1))
        return vector, patches, weights @ vector - patches.sum(axis=1)


def newton_schulz(moments: Any, identity: Any) -> Any:
    """Square roots of symmetric matrices without negative eigenvalues, by :data:`STEPS` of :class:`MatrixRoots`' steps.

    Args:
        moments: (..., t, t), an array or a tensor of any float type.
        identity: (t, t) of the same kind, type and device.

    Returns:
        (..., t, t) of that type, on that device.
    """
    trace = (moments * identity).sum(-1).sum(-1)[..., None, None].clip(min=_LEAST)
    y = moments / trace
    t = 1.5 * identity - 0.5 * y  # the first step, Z being I
    y, z = y @ t, t
    for step in range(1, STEPS):
        t = 1.5 * identity - 0.5 * (z @ y)
        y = y @ t
        if step < STEPS - 1:
            z = t @ z
    return y * trace**0.5


@dataclass(frozen=True)
class Pooling:
    """How descriptors become one vector, before any projection: VLAD of each layer, behind them all its matrix roots, and behind
    these the descriptors that are the same for all patches.

    Args:
        vlad: the first block. roots: the second; None for none.
        whole: how many columns, the first of the descriptors, are the same for all patches; 0 for none.
    """

    vlad: LayerVlad
    roots: MatrixRoots | None = None
    whole: int = 0

    @classmethod
    def of(cls, config: AnnotatorConfig) -> Pooling:
        """As the settings have it."""
        vlad = LayerVlad(Vlad(config.mass, config.intra, config.signed_sqrt, config.l2))
        roots = MatrixRoots(config.moments, config.n_components) if config.moments else None
        return cls(vlad, roots, config.whole_layers * config.n_components)

    @staticmethod
    def blocks(config: AnnotatorConfig) -> tuple[Block, ...]:
        """The blocks, whose lengths add up to ``config.joined_dimension``."""
        whole = config.whole_layers * config.n_components
        roots = config.joined_dimension - config.vlad_dimension - whole
        return Block(config.vlad_dimension), Block(roots), Block(whole, _WHOLE_POWER)

    def encode(self, descriptors: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (B, D) float32 of descriptors (B, P, L·n) and centres (L', m, n), L' of them with visual words; D is
        ``config.joined_dimension``."""
        local = descriptors[..., self.whole :]
        vectors = [self.vlad.encode(local, centers)]
        if self.roots is not None:
            vectors.append(self.roots.encode(local))
        if self.whole:
            vectors.append(descriptors[:, 0, : self.whole])
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)

    def encode_cuda(self, descriptors: Tensor, centers: Tensor, half_norms: Tensor, *, parts: bool = False) -> Tensor:
        """:meth:`encode` on a GPU: (B, D) float32, or with ``parts`` (2, B, D) bfloat16; arguments and errors as
        :meth:`~gpuannot.method.vlad.LayerVlad.encode_cuda`."""
        local, more = descriptors[..., self.whole :], []
        if self.roots is not None:
            more.append(self.roots.encode_cuda(local))
        if self.whole:
            more.append(descriptors[:, 0, : self.whole].float())
        vectors = self.vlad.encode_cuda(local, centers, half_norms, parts=parts)
        return torch.cat([vectors, *(bfloat16_parts(each) if parts else each for each in more)], dim=-1) if more else vectors

    def patch_contributions(
        self, descriptors: NDArray[np.float32], centers: NDArray[np.float32], weights: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Of one image (P, L·n): its vector (D,), what each patch adds to w·vector, (k, P), and what none does, (k,).

        That is the matrix roots' rounding, and all of what is the same for all patches. ``weights`` are (k, D).
        """
        local, end = descriptors[:, self.whole :], weights.shape[1] - self.whole
        vector, patches = self.vlad.patch_contributions(local, centers, weights[:, : centers.size])
        same = descriptors[0, : self.whole].astype(np.float64)
        rest = weights[:, end:] @ same
        if self.roots is not None:
            second, more, unsplit = self.roots.patch_contributions(local, weights[:, centers.size : end])
            vector, patches, rest = np.concatenate([vector, second]), patches + more, rest + unsplit
        return np.concatenate([vector, same]), patches, rest
