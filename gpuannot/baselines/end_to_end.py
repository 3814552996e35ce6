"""AlexNet and VGG-16 trained end to end on the labelled images: the network gives the words itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import DataError, DeviceError, InvalidArgumentError, ModelFileError
from ..images.batches import ImageBatches, ImageFailure
from ..images.inputs import Images, as_sequence, none_readable, warn_of_failures
from ..method.labels import check_lengths
from ..method.trunk import resolve_dtype
from ..metrics import evaluate
from ..system.progress import progress_bar
from .base import Labels, WordScorer, best_words, numbered_labels
from .checkpoint import Checkpoint
from .networks import CONVOLUTION_NAMES, SMALLEST_INPUT, Network, StartWeights, start_weights, started_network
from .pixels import DecodedImages, Inputs, centre_crop, to_device
from .search import cover_holdout
from .training import LOSSES, OPTIMIZERS_OF, Trainer, best_epoch, check_choices, check_ranges, defaults, most_memory, stalled

_HOLDOUT_K = 5


class EndToEnd(WordScorer):
    """A convolutional network with one output a word, trained by Adam or by SGD with momentum.

    On a CPU, the same images, settings, processor and number of threads give the same bits. Epoch e draws its order, crops, flips
    and dropped units from (seed, e), so a resumed training goes on as if it had never stopped.

    Args:
        network: ``vgg16`` or ``alexnet``.
        mode: ``scratch`` starts at random. ``finetune`` starts from ImageNet weights and trains every layer. ``frozen`` keeps the
            ImageNet layers as they are and trains the new last layer alone, on their outputs scaled to length 1: on fc7 where the
            weights hold it, else (the embedded VGG-16 has convolutions only) on the mean over positions of pool5.
            ``finetune`` from convolutions alone draws fc6 and fc7 at random.
        freeze: for ``finetune``, the last convolution that stays as it is, with all before it: ``conv4_3``, of AlexNet ``conv3``.
            What it gives, pooled, is rounded to float16.
        loss: ``sigmoid`` (cross-entropy of each word) or ``softmax`` (an image's words share its probability equally).
        weights: ``source`` of :func:`~gpuannot.baselines.networks.start_weights`.
        weights_convention: ``convention`` of the same.
        epochs: passes over the images, at most.
        batch_size: images of a step.
        optimizer: ``sgd``, with momentum 0.9, or ``adam``; None takes the mode's in :data:`OPTIMIZERS_OF`.
        learning_rate: None takes the optimiser's and mode's in :data:`LEARNING_RATES`.
        weight_decay: None takes that of the mode in :data:`WEIGHT_DECAYS`.
        crop: images are decoded 8/7 as large as the input (256 for 224) and a random window is taken, in ``scores`` the middle one.
        flip: every other image is mirrored, at random.
        holdout: share of the images to hold out for early stopping; 0 trains all epochs on all images.
        patience: stop after so many epochs without a better F1 (the protocol's, k = 5) on the hold-out, and take the best epoch.
        input_size: side of the network's input.
        width: factor on all channels, for small networks started from scratch.
        interpolation: as for :class:`~gpuannot.config.AnnotatorConfig`.
        amp: mixed precision: in bfloat16 on CPUs that gain by it and on CUDA, there in float16 before compute capability 8.0.
        memory: bytes that decoded images may take, and as many what frozen layers give, which are run once an image where ``crop``
            and ``flip`` are off. More images are decoded again in every epoch; more features are read from the file beside the
            checkpoint, or without one computed again.
        checkpoint: file to write after every epoch, for ``fit(resume=True)``. What frozen layers give lies beside it, for every
            training of the folder that they are the same for: ``frozen-….npy``.
        seed: of all random numbers.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        network_: the trained :class:`~gpuannot.baselines.networks.Network`.
        history_: for each epoch its number, its mean loss, with a hold-out the loss, F1 and N+ there, its seconds, and
            peak_memory, the most bytes that the process, or torch on the GPU, had held by then; without where unknown.
        failures_: images of the last ``fit``, ``scores`` or ``annotate`` that could not be read.
        positions_: (T,) int64, the image of each row of the last ``scores`` or ``annotate``: all that could be read.
    """

    network_: Network
    history_: list[dict[str, float]]
    failures_: list[ImageFailure]
    positions_: NDArray[np.int64]

    def __init__(
        self,
        network: str = "vgg16",
        mode: str = "finetune",
        loss: str = "sigmoid",
        *,
        freeze: str | None = None,
        weights: str | Path = "auto",
        weights_convention: str | None = None,
        epochs: int = 60,
        batch_size: int = 64,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        crop: bool = True,
        flip: bool = True,
        holdout: float = 0.1,
        patience: int = 10,
        input_size: int = 224,
        width: float = 1.0,
        interpolation: str = "bicubic",
        amp: bool = True,
        memory: int = 4 << 30,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(device=device)
        check_choices(network=(network, SMALLEST_INPUT), mode=(mode, OPTIMIZERS_OF), loss=(loss, LOSSES))
        self.optimizer, rate, decay = defaults(mode, optimizer, learning_rate, weight_decay)
        check_ranges(epochs=(epochs, 1), batch_size=(batch_size, 1), learning_rate=(rate, 1e-12), weight_decay=(decay, 0))
        check_ranges(holdout=(holdout, 0, 0.9), patience=(patience, 1))
        check_ranges(input_size=(input_size, SMALLEST_INPUT[network]))
        if mode != "scratch" and width != 1:
            raise InvalidArgumentError(
                f"width = {width}: trained weights are those of the whole network; use width=1 or mode='scratch'"
            )
        if freeze is not None and (mode != "finetune" or freeze not in CONVOLUTION_NAMES[network]):
            known_names = ", ".join(CONVOLUTION_NAMES[network])
            raise InvalidArgumentError(f"freeze = {freeze!r} must be, with mode='finetune', one of {known_names}, or None")
        self.network, self.mode, self.loss, self.epochs, self.batch_size = network, mode, loss, epochs, batch_size
        self.freeze = freeze
        self.weights, self.weights_convention, self.width = weights, weights_convention, width
        self.learning_rate, self.weight_decay = rate, decay
        self.crop, self.flip, self.holdout, self.patience, self.seed = crop, flip, holdout, patience, seed
        self.input_size, self.interpolation, self.amp, self.memory = input_size, interpolation, amp, memory
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    def fit(
        self,
        images: Images,
        labels: Labels,
        vocabulary: Sequence[str] | None = None,
        *,
        resume: bool = False,
        progress: bool | None = None,
    ) -> Self:
        """Train on N labelled images.

        An image that cannot be read is left out, listed in ``failures_`` and warned of.

        Args:
            images: as for :class:`~gpuannot.Annotator`.
            labels: the words of each image, or an (N, W) matrix of 0 and 1.
            vocabulary: the W words in column order; None takes the words that occur, sorted, or numbers a matrix's columns.
            resume: go on from ``checkpoint``, which must be of the same settings (other ``epochs`` may be asked for) and images.
            progress: show bars; None shows them on terminals.

        Raises:
            DataError: labels that do not fit the images or the vocabulary, none to learn from, or not one readable image.
            WeightsError: the ImageNet weights cannot be read.
            ModelFileError: the checkpoint is missing, of another training, or would be overwritten.
            DeviceError: the GPU has no room for a batch.
            ValueError: the training diverged.
        """
        if resume and self.checkpoint is None:
            raise InvalidArgumentError("resume needs the checkpoint's path: EndToEnd(checkpoint=…)")
        if self.checkpoint is not None and self.checkpoint.exists() and not resume:
            raise ModelFileError(f"{self.checkpoint} exists: go on from it with resume=True, or remove it to start anew")
        matrix, words = numbered_labels(labels, vocabulary)
        sources = as_sequence(images)
        check_lengths(len(sources), matrix)
        start = None if self.mode == "scratch" else start_weights(self.network, self.weights, self.weights_convention)
        vars(self).pop("vocabulary_", None)  # if this fails half-way, nothing may rank by what an earlier fit learnt
        decoded = DecodedImages(
            sources,
            self._decode_size,
            interpolation=self.interpolation,
            batch_size=self.batch_size,
            memory=self.memory,
            progress=progress,
        )
        self.failures_ = decoded.failures
        if not len(decoded.positions):
            raise DataError(none_readable(len(sources), self.failures_))
        warn_of_failures(len(sources), self.failures_)
        learn, held = self._split(decoded.positions, matrix)
        if not matrix[learn].nnz:
            raise DataError("no image to learn from carries a word: there is nothing to learn")
        targets = torch.from_numpy(matrix.toarray()).to(self.device)
        self.counts_ = targets[torch.from_numpy(learn).to(self.device)].sum(dim=0)
        network = started_network(
            self.network, start, self.counts_, len(learn), seed=self.seed, width=self.width,
            frozen=self.mode == "frozen", freeze=self.freeze, independent=self.loss == "sigmoid",
        )  # fmt: skip
        self.network_ = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = self._settings(start, decoded, matrix, words)
        try:
            inputs = self._inputs(decoded, settings, progress)
            self._train(inputs, learn, held, targets, matrix, settings, resume, progress)
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"the GPU has no room for batches of {self.batch_size} images; use a smaller batch_size") from error
        self.vocabulary_ = words
        return self

    @torch.inference_mode()
    def scores(self, inputs: Images) -> Tensor:
        """Logit of each word for each readable image: (T, W) float32 on this estimator's device, −∞ for untrained words.

        ``positions_`` says which image each row is; the others are listed in ``failures_`` and warned of.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        sources = as_sequence(inputs)
        batches = ImageBatches(sources, size=self._decode_size, batch_size=self.batch_size, interpolation=self.interpolation)
        rows = [torch.empty((0, len(self.vocabulary_)), device=self.device)]
        positions = [np.empty(0, np.int64)]
        for index, pixels in batches:
            rows.append(self._predictor.predict(centre_crop(to_device(pixels, self.device), self.input_size)))
            positions.append(index)
        self.failures_, self.positions_ = batches.failures, np.concatenate(positions)
        warn_of_failures(len(sources), self.failures_)
        return self._without_untrained(torch.cat(rows))

    def _train(
        self,
        inputs: Inputs,
        learn: NDArray[np.int64],
        held: NDArray[np.int64],
        targets: Tensor,
        matrix: sparse.csr_array,
        settings: Mapping[str, Any],
        resume: bool,
        progress: bool | None,
    ) -> None:
        trainer = self._new_trainer(self.network_ if inputs.features is None else self.network_.head)
        self.history_ = []
        best: Mapping[str, Tensor] = {}
        if resume and self.checkpoint is not None:
            stored = Checkpoint.read(self.checkpoint, settings)
            trainer.set_weights(stored.tensors["weights"])
            trainer.set_memory(stored.tensors.get("memory", {}))
            trainer.set_scale(stored.state["scale"])
            best, self.history_ = stored.tensors.get("best", {}), stored.state["history"]
        with progress_bar("epochs", self.epochs, progress, initial=len(self.history_), unit="epoch") as bar:
            while len(self.history_) < self.epochs and not stalled(self.history_, self.patience):
                began = time.perf_counter()
                entry: dict[str, float] = {"epoch": len(self.history_) + 1}
                entry["loss"] = self._epoch(trainer, inputs, learn, targets)
                if len(held):
                    entry.update(self._evaluate(trainer, inputs, held, targets, matrix))
                entry["seconds"] = time.perf_counter() - began
                if peak := most_memory(self.device):
                    entry["peak_memory"] = peak
                self.history_.append(entry)
                if len(held) and best_epoch(self.history_) == entry["epoch"]:
                    best = trainer.weights()
                bar.set_postfix({key: f"{value:.4g}" for key, value in entry.items() if key != "epoch"}, refresh=False)
                bar.update()
                if self.checkpoint is not None:
                    tensors = {"weights": trainer.weights(), "memory": trainer.memory(), "best": best}
                    Checkpoint(tensors, settings, {"history": self.history_, "scale": trainer.scale()}).write(self.checkpoint)
        if best:
            trainer.set_weights(best)
        self.network_.eval()
        self._predictor = self._new_trainer(self.network_)

    def _inputs(self, decoded: DecodedImages, settings: Mapping[str, Any], progress: bool | None) -> Inputs:
        """What the trained layers see; what frozen layers give where it never changes and there is room for it."""
        inputs = Inputs(decoded, self.input_size, flip=self.flip, batch_size=self.batch_size, device=self.device)
        if (self.mode == "frozen" or self.freeze is not None) and not self.crop and not self.flip:
            file = None
            if self.checkpoint is not None:
                decides = ("network", "mode", "freeze", "weights", "images", "batch_size", "input_size", "amp")
                key = hashlib.sha256(repr([settings[name] for name in decides]).encode()).hexdigest()[:16]
                file = self.checkpoint.with_name(f"frozen-{key}.npy")
            self.network_.eval()
            inputs.fix(self._new_trainer(self.network_.base).infer, self.memory, file, progress)
        return inputs

    def _epoch(self, trainer: Trainer, inputs: Inputs, learn: NDArray[np.int64], targets: Tensor) -> float:
        """Train on every image once; the mean loss."""
        rng = np.random.default_rng((self.seed, len(self.history_)))
        order = rng.permutation(learn)
        self.network_.train()
        total = torch.zeros((), device=self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**63)))
            for number, (index, batch) in enumerate(inputs.batches(order, rng)):
                if number % 100 == 0:
                    trainer.drop_subnormals()
                total += trainer.step(batch, targets[index]) * len(index)
        loss = float(total) / len(learn)
        if not np.isfinite(loss):
            raise InvalidArgumentError(
                f"the loss is {loss} in epoch {len(self.history_) + 1}: use a lower learning_rate than {self.learning_rate}"
            )
        return loss

    def _evaluate(
        self, trainer: Trainer, inputs: Inputs, held: NDArray[np.int64], targets: Tensor, matrix: sparse.csr_array
    ) -> dict[str, float]:
        """Loss, F1 and N+ on the hold-out."""
        self.network_.eval()
        logits = torch.cat([trainer.predict(batch) for _, batch in inputs.batches(held)])
        loss = float(trainer.loss(logits, targets[torch.from_numpy(held).to(self.device)]))
        index, _ = best_words(self._without_untrained(logits), min(_HOLDOUT_K, int((self.counts_ > 0).sum())))
        reached = evaluate(index.cpu().numpy(), matrix[held])
        return {"holdout_loss": loss, "holdout_f1": reached.f1, "holdout_n_plus": reached.n_plus}

    @property
    def _decode_size(self) -> int:
        return round(self.input_size * 8 / 7) if self.crop else self.input_size

    def _split(self, positions: NDArray[np.int64], labels: sparse.csr_array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images to learn from and images to hold out."""
        count = round(len(positions) * self.holdout)
        if not count:
            return positions, positions[:0]
        learn, held = cover_holdout(labels[positions], count, self.seed)
        return positions[learn], positions[held]

    def _new_trainer(self, forward: Callable[[Tensor], Tensor]) -> Trainer:
        kind = resolve_dtype("auto", self.device)
        return Trainer(
            self.network_,
            forward,
            self.loss,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            dtype=kind if self.amp and kind != torch.float32 else None,
        )

    def _settings(
        self, start: StartWeights | None, decoded: DecodedImages, matrix: sparse.csr_array, words: tuple[str, ...]
    ) -> dict[str, Any]:
        """What a checkpoint must have been made with to go on from it."""
        kept = ("network", "mode", "freeze", "loss", "batch_size", "optimizer", "learning_rate", "weight_decay", "crop", "flip",
                "holdout", "patience", "input_size", "width", "interpolation", "amp", "seed")  # fmt: skip
        digest = hashlib.sha256(repr(words).encode())
        for part in (matrix.indptr, matrix.indices):
            digest.update(part.astype(np.int64).tobytes())
        return {
            **{name: getattr(self, name) for name in kept},
            "weights": None if start is None else start.sha256,
            "images": decoded.sha256,
            "labels": digest.hexdigest(),
        }

    def _without_untrained(self, logits: Tensor) -> Tensor:
        logits[:, self.counts_ == 0] = -torch.inf
        return logits
