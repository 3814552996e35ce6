"""End to end on drawn scenes, small: losses by hand, a training step against plain gradients, resuming bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from gpuannot.baselines.end_to_end import EndToEnd
from gpuannot.baselines.networks import Network
from gpuannot.baselines.pixels import DecodedImages, Inputs, centre_crop, crops
from gpuannot.baselines.training import Trainer, sigmoid_loss, softmax_loss
from gpuannot.datasets.scenes import draw_scene
from gpuannot.errors import DataError, ImageError, ModelFileError, NotFittedError, WeightsError
from gpuannot.experiments.holdout import cover_holdout
from gpuannot.images.decode import decode_image
from gpuannot.method.weights import load_weights
from gpuannot.metrics import evaluate
from gpuannot.system.device import cpu_has_fast_bfloat16

SMALL: dict[str, Any] = {"network": "alexnet", "mode": "scratch", "width": 0.05, "input_size": 64, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """On networks this small a second thread mostly waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def learning(drawn_scenes: Path) -> tuple[list[Path], list[list[str]], list[str]]:
    """Images, the words of each, and all words."""
    stored = json.loads((drawn_scenes / "labels.json").read_text())
    paths = [drawn_scenes / "images" / sample["image_name"] for sample in stored["samples"]]
    return paths, [sample["image_labels"] for sample in stored["samples"]], stored["labels"]


@pytest.fixture(scope="module")
def scene_arrays() -> tuple[NDArray[np.uint8], list[tuple[str, ...]]]:
    drawn = [draw_scene(seed, (80, 64)) for seed in range(96)]
    return np.stack([np.asarray(image) for image, _ in drawn]), [words for _, words in drawn]


# ---- losses and steps


def test_sigmoid_loss_by_hand() -> None:
    # Image 1: z = (0, 0), y = (1, 0): 2·log 2. Image 2: z = (log 3, −log 3), y = (1, 1): σ(log 3) = 3/4, σ(−log 3) = 1/4,
    # so −log(3/4) − log(1/4) = log(16/3). The mean over both images.
    logits = torch.tensor([[0.0, 0.0], [np.log(3), -np.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(sigmoid_loss(logits, labels)) == pytest.approx((2 * np.log(2) + np.log(16 / 3)) / 2, rel=1e-6)


def test_softmax_loss_by_hand() -> None:
    # softmax(log 2, 0, 0) = (1/2, 1/4, 1/4). Image 1 carries words 0 and 1: targets (1/2, 1/2, 0), ½·log 2 + ½·log 4 = 1.5·log 2.
    # Image 2 carries none and adds 0. Image 3 carries word 2: log 4 = 2·log 2. The mean over three images.
    logits = torch.tensor([[np.log(2), 0.0, 0.0]] * 3)
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert float(softmax_loss(logits, labels)) == pytest.approx(3.5 * np.log(2) / 3, rel=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_steps_are_sgd_with_momentum(loss: str) -> None:
    """Three steps on z = Wx + b against the rule v ← μv + g + λθ, θ ← θ − ηv in NumPy, with the gradients written out."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), (rng.random((5, 4)) < 0.5).astype(float)
    y[2] = 0
    layer = nn.Linear(3, 4).double()
    weight, bias = (value.detach().numpy().copy() for value in (layer.weight, layer.bias))
    trainer = Trainer(layer, layer, loss, learning_rate=0.3, momentum=0.8, weight_decay=0.01)
    speed = [np.zeros_like(weight), np.zeros_like(bias)]
    for _ in range(3):
        z = x @ weight.T + bias
        if loss == "sigmoid":
            p = 1 / (1 + np.exp(-z))
            expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / 5
            error = (p - y) / 5
        else:
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            target = y / np.maximum(1, y.sum(axis=1, keepdims=True))
            expected = -(target * np.log(p)).sum() / 5
            error = (p * target.sum(axis=1, keepdims=True) - target) / 5
        assert float(trainer.step(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected, rel=1e-5)
        for number, (value, gradient) in enumerate(((weight, error.T @ x), (bias, error.sum(axis=0)))):
            speed[number] = 0.8 * speed[number] + gradient + 0.01 * value
            value -= 0.3 * speed[number]
    assert np.allclose(layer.weight.detach(), weight, rtol=1e-5, atol=1e-6)
    assert np.allclose(trainer.memory()["bias momentum_buffer"], speed[1], rtol=1e-5, atol=1e-6)


def test_steps_of_adam() -> None:
    """Three of AdamW's on z = Wx + b in NumPy: θ ← θ − η(λθ + m̂/(√v̂ + ε)), m and v running means of g and g²."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), (rng.random((5, 4)) < 0.5).astype(float)
    layer = nn.Linear(3, 4).double()
    values = [value.detach().numpy().copy() for value in (layer.weight, layer.bias)]
    trainer = Trainer(layer, layer, "sigmoid", optimizer="adam", learning_rate=0.3, momentum=0.8, weight_decay=0.1)
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for step in range(1, 4):
        error = (1 / (1 + np.exp(-x @ values[0].T - values[1])) - y) / 5
        trainer.step(torch.from_numpy(x), torch.from_numpy(y))
        for number, gradient in enumerate((error.T @ x, error.sum(axis=0))):
            first[number] = 0.8 * first[number] + 0.2 * gradient
            second[number] = 0.999 * second[number] + 0.001 * gradient**2
            mean, square = first[number] / (1 - 0.8**step), second[number] / (1 - 0.999**step)
            values[number] -= 0.3 * (0.1 * values[number] + mean / (np.sqrt(square) + 1e-8))
    assert np.allclose(layer.weight.detach(), values[0], rtol=1e-5, atol=1e-6)
    assert np.allclose(layer.bias.detach(), values[1], rtol=1e-5, atol=1e-6)
    assert np.allclose(trainer.memory()["weight exp_avg"], first[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_is_next_to_nothing_becomes_nothing(optimizer: str) -> None:
    """A unit that answers no more has a running gradient that shrinks without end; steps stay what they were."""
    layers = [nn.Linear(2, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    settings: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0}
    kept, dropped = (Trainer(layer, layer, "sigmoid", **settings) for layer in layers)
    truth = torch.tensor([[1.0, 0.0]])
    for step in range(1200):
        inputs = torch.tensor([[1.0, float(step == 0)]])
        kept.step(inputs, truth)
        dropped.step(inputs, truth)
        dropped.drop_subnormals()
    kind = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
    shrunk, zero = (trainer.memory()[f"weight {kind}"] for trainer in (kept, dropped))
    assert (shrunk[:, 1].abs() < 1e-37).all() and (shrunk[:, 1] != 0).any() and (zero[:, 1] == 0).all()
    assert torch.equal(shrunk[:, 0], zero[:, 0])
    assert torch.equal(layers[0].weight, layers[1].weight) and torch.equal(layers[0].bias, layers[1].bias)


# ---- pixels


def test_crops_and_flips() -> None:
    images = torch.arange(2 * 3 * 5 * 6).view(2, 3, 5, 6)
    found = crops(images, 3, torch.tensor([0, 2]), torch.tensor([3, 1]), torch.tensor([False, True]))
    assert torch.equal(found[0], images[0, :, 0:3, 3:6])
    assert torch.equal(found[1], images[1, :, 2:5, 1:4].flip(2))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(centre_crop(images, 3), images[:, :, 1:4, 1:4])
    assert torch.equal(centre_crop(images[..., :5], 5), images[..., :5])


@pytest.mark.parametrize("kept", [True, False])
def test_decoded_images(learning: Any, tmp_path: Path, kept: bool) -> None:
    paths = learning[0][:5]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    sources = [*paths[:2], broken, *paths[2:]]
    options: dict[str, Any] = {"interpolation": "bicubic", "batch_size": 2, "progress": False}
    decoded = DecodedImages(sources, 40, memory=6 * 40 * 40 * 3 - (not kept), **options)
    assert decoded.positions.tolist() == [0, 1, 3, 4, 5]
    assert [failure.path for failure in decoded.failures] == [str(broken)]
    broken.unlink()
    order = np.array([5, 0, 3, 1])
    batches = list(decoded.batches(order, 3))
    assert [index.tolist() for index, _ in batches] == [[5, 0, 3], [1]]
    for position, pixels in zip(order, torch.cat([pixels for _, pixels in batches]), strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), decode_image(sources[position], 40))
    again = DecodedImages(sources, 40, memory=0, **options)
    assert again.sha256 == decoded.sha256
    assert DecodedImages(sources[::-1], 40, memory=0, **options).sha256 != decoded.sha256


# ---- training


def frequent_words_f1(labels: NDArray[np.floating], truth: Any, k: int) -> float:
    """The protocol's F1 of giving every image the k most frequent training words."""
    frequent = np.argsort(-labels.sum(axis=0), kind="stable")[:k]
    return evaluate(np.tile(frequent, (truth.shape[0], 1)), truth).f1


def matrix(labels: list[Any], words: list[str]) -> NDArray[np.float32]:
    return np.array([[float(word in row) for word in words] for row in labels], np.float32)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_frozen_learns_words(scene_arrays: Any, loss: str) -> None:
    """VGG-16's embedded convolutions and a new last layer: better than the most frequent words on images it has not seen."""
    images, labels = scene_arrays
    words = sorted({word for row in labels for word in row})
    truth = matrix(labels, words)
    estimator = EndToEnd(
        "vgg16", "frozen", loss, weights="embedded", input_size=48, crop=False, flip=False, holdout=0, epochs=15, device="cpu"
    )
    estimator.fit(images[:64], labels[:64], words)
    losses = [entry["loss"] for entry in estimator.history_]
    # Softmax cannot go below the entropy of its targets: log |y|, as an image's words share its probability.
    floor = 0.0 if loss == "sigmoid" else float(np.log(truth[:64].sum(axis=1)).mean())
    assert len(losses) == 15 and losses[-1] - floor < 0.6 * (losses[0] - floor)
    trained = {name for name, value in estimator.network_.named_parameters() if value.requires_grad}
    assert trained == {"classifier.6.weight", "classifier.6.bias"} and len(list(estimator.network_.classifier)) == 1
    start = load_weights("embedded").tensors
    assert all(torch.equal(value, estimator.network_.state_dict()[name]) for name, value in start.items())
    held = sparse.csr_array(truth[64:])
    index, scores = estimator.annotate(images[64:], 5)
    assert index.shape == (32, 5) and index.dtype == torch.int64 and scores.dtype == torch.float32
    assert evaluate(index.numpy(), held).f1 > 1.3 * frequent_words_f1(truth[:64], held, 5)
    everything = estimator.scores(images[64:])[:4]
    assert torch.equal(scores[:4], everything.sort(dim=1, descending=True, stable=True).values[:, :5])


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_frozen_features_kept_or_not_give_the_same(learning: Any, memory: int) -> None:
    """One step by hand: the kept features are those of the middle crop, and what does not fit is computed again."""
    paths, labels, words = learning
    options: dict[str, Any] = {"weights": "embedded", "input_size": 32, "crop": False, "flip": False, "holdout": 0, "epochs": 2}
    estimator = EndToEnd("vgg16", "frozen", memory=memory, batch_size=100, amp=False, device="cpu", **options)
    estimator.fit(paths[:6], labels[:6], words)
    truth = torch.from_numpy(matrix(labels[:6], words))
    pixels = torch.stack([torch.from_numpy(decode_image(path, 32)).permute(2, 0, 1) for path in paths[:6]])
    with torch.inference_mode():
        features = estimator.network_.embed(pixels)
    assert torch.allclose(features.norm(dim=1), torch.ones(6), atol=1e-3)  # they are float16
    share = (truth.sum(dim=0) + 1) / 8
    weight, bias = torch.zeros(len(words), features.shape[1], requires_grad=True), torch.logit(share).requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=estimator.learning_rate, momentum=0.9, weight_decay=estimator.weight_decay)
    for epoch in range(2):
        loss = functional.binary_cross_entropy_with_logits(features.clone() @ weight.T + bias, truth, reduction="none").sum() / 6
        assert estimator.history_[epoch]["loss"] == pytest.approx(float(loss.detach()), rel=2e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(estimator.network_.last.weight, weight, atol=2e-3 * float(weight.detach().abs().max()))


@pytest.mark.parametrize(("network", "size"), [("alexnet", 64), ("vgg16", 32)])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_scratch_lowers_the_loss(scene_arrays: Any, network: str, size: int, loss: str) -> None:
    images, labels = scene_arrays
    settings = {**SMALL, "network": network, "input_size": size, "width": 0.1}
    estimator = EndToEnd(loss=loss, holdout=0, epochs=8, learning_rate=0.0003, **settings)
    estimator.fit(images, labels)
    losses = [entry["loss"] for entry in estimator.history_]
    # Without its images a network can do no better than the words' shares, with which it starts.
    truth = matrix(labels, list(estimator.vocabulary_))
    share = (truth.sum(axis=0) + 1) / (len(truth) + 2)
    if loss == "sigmoid":
        floor, blind = 0, -(truth * np.log(share) + (1 - truth) * np.log(1 - share)).sum(axis=1).mean()
    else:
        carried = truth.sum(axis=1)
        floor, blind = np.log(carried).mean(), -(truth / carried[:, None] * np.log(share / share.sum())).sum(axis=1).mean()
    assert losses[-1] - floor < 0.97 * (blind - floor)
    assert not estimator.network_.training


def test_finetune_starts_from_the_weights(learning: Any, tmp_path: Path) -> None:
    """A step so small that the weights stay: every layer is trained, from the file's convolutions and random fc6 and fc7."""
    paths, labels, words = learning
    estimator = EndToEnd(
        "vgg16", "finetune", weights="embedded", input_size=32, epochs=1, holdout=0, learning_rate=1e-9, device="cpu"
    )
    estimator.fit(paths[:2], labels[:2], words)
    start = load_weights("embedded").tensors
    network = estimator.network_
    assert all(torch.allclose(value, network.state_dict()[name], atol=1e-4) for name, value in start.items())
    assert all(value.requires_grad for value in network.parameters())
    assert network.last.in_features == 4096


def test_frozen_with_fc6_and_fc7_trains_the_last_layer_alone(learning: Any, tmp_path: Path) -> None:
    paths, labels, words = learning
    shapes = {"features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
              "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3), "classifier.1": (4096, 9216),
              "classifier.4": (4096, 4096)}  # fmt: skip
    state = {}
    for number, (module, shape) in enumerate(shapes.items()):  # one value a layer, spread over it: a small file
        state[f"{module}.weight"] = torch.tensor(0.01 + 0.001 * number).expand(shape)
        state[f"{module}.bias"] = torch.linspace(-1, 1, shape[0])
    torch.save(state, tmp_path / "alexnet.pth")
    estimator = EndToEnd(
        "alexnet", "frozen", weights=tmp_path / "alexnet.pth", weights_convention="torchvision", input_size=63, epochs=3,
        holdout=0, device="cpu",
    ).fit(paths[:3], labels[:3], words)  # fmt: skip
    network = estimator.network_
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {"classifier.6.weight", "classifier.6.bias"} and network.last.in_features == 4096
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    pixels = torch.from_numpy(decode_image(paths[0], 63)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert network.embed(pixels).norm() == pytest.approx(1, rel=1e-4)
    assert estimator.history_[-1]["loss"] < estimator.history_[0]["loss"]


# ---- layers up to one that stays


FROM_VGG16: dict[str, Any] = {
    "network": "vgg16", "weights": "embedded", "input_size": 32, "batch_size": 4, "crop": False, "flip": False, "holdout": 0,
    "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_features_of_layers_that_stay_lie_in_a_file(
    learning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """Beside the checkpoint, with the bits of those in memory; a training that goes on reads them, and so does another."""
    images = tuple(part[:10] for part in learning[:2])
    path = tmp_path / "training.safetensors"
    settings = {**FROM_VGG16, "mode": "frozen"}
    EndToEnd(epochs=1, memory=memory, checkpoint=path, **settings).fit(*images, learning[2])
    [file] = set(tmp_path.iterdir()) - {path}
    assert file.name.startswith("frozen-") and file.stat().st_size == 128 + 10 * 512 * 2
    kept = EndToEnd(epochs=2, **settings).fit(*images, learning[2])
    monkeypatch.setattr(Inputs, "_fill", None)
    for checkpoint, resume in ((path, True), (tmp_path / "another.safetensors", False)):
        again = EndToEnd(epochs=2, memory=memory, checkpoint=checkpoint, **settings).fit(*images, learning[2], resume=resume)
        assert same(kept, again)


def test_layers_up_to_one_stay(learning: Any) -> None:
    """What they give is kept or computed again, with the same bits; the layers after it are trained."""
    images = tuple(part[:6] for part in learning[:2])
    settings = {**FROM_VGG16, "mode": "finetune", "freeze": "conv4_3", "epochs": 1}
    kept, again = (EndToEnd(memory=memory, **settings).fit(*images, learning[2]) for memory in (1 << 20, 0))
    assert same(kept, again)
    start, network = load_weights("embedded").tensors, kept.network_
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert {name for name in trained if name.startswith("features")} == {
        f"features.{number}.{kind}" for number in (24, 26, 28) for kind in ("weight", "bias")
    }
    for name, value in start.items():
        assert torch.equal(value, network.state_dict()[name]) == (name not in trained)


def test_what_stays_drops_nothing_and_learns_nothing() -> None:
    """The base is in eval while the head trains: AlexNet's own dropouts included where all but the last layer stay."""
    torch.manual_seed(0)
    network = Network("alexnet", 3, width=0.05)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    pixels = network.base(images)
    network.freeze("conv3")
    assert not any(value.requires_grad for layer in network.features[:8] for value in layer.parameters())
    assert all(value.requires_grad for layer in network.features[8:] for value in layer.parameters())
    assert torch.equal(network.base(images), network.features[:8](pixels).half())
    network.train()
    assert torch.equal(network.base(images), network.base(images))
    network.freeze()
    assert torch.equal(network(images), network(images))
    assert {name for name, value in network.named_parameters() if value.requires_grad} == {
        "classifier.6.weight",
        "classifier.6.bias",
    }


# ---- resuming, stopping, determinism


def weights_of(estimator: EndToEnd) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in estimator.network_.state_dict().items()}


def learnt(estimator: EndToEnd) -> list[dict[str, float]]:
    """The history without what an epoch cost."""
    costs = ("seconds", "peak_memory")
    assert all(entry["seconds"] > 0 for entry in estimator.history_)
    return [{key: value for key, value in entry.items() if key not in costs} for entry in estimator.history_]


def same(first: EndToEnd, second: EndToEnd) -> bool:
    one, other = weights_of(first), weights_of(second)
    return learnt(first) == learnt(second) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("holdout", [0.25, 0])
def test_resumed_is_uninterrupted(learning: Any, tmp_path: Path, holdout: float) -> None:
    whole = EndToEnd(epochs=4, holdout=holdout, **SMALL).fit(*learning)
    path = tmp_path / "training.safetensors"
    EndToEnd(epochs=2, holdout=holdout, checkpoint=path, **SMALL).fit(*learning)
    torch.manual_seed(99)  # the caller's generator decides nothing
    resumed = EndToEnd(epochs=4, holdout=holdout, checkpoint=path, **SMALL).fit(*learning, resume=True)
    assert [entry["epoch"] for entry in resumed.history_] == [1, 2, 3, 4]
    assert same(whole, resumed)
    finished = EndToEnd(epochs=4, holdout=holdout, checkpoint=path, **SMALL).fit(*learning, resume=True)
    assert same(whole, finished)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]
    other = EndToEnd(epochs=4, holdout=holdout, **{**SMALL, "seed": 1}).fit(*learning)
    assert not same(whole, other)


def test_images_decoded_again_give_the_same(learning: Any) -> None:
    kept = EndToEnd(epochs=2, **SMALL).fit(*learning)
    again = EndToEnd(epochs=2, memory=0, **SMALL).fit(*learning)
    assert same(kept, again)


def test_the_callersrandom_numbers_stay(learning: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    EndToEnd(epochs=1, **SMALL).fit(*learning)
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupted_write_leaves_the_last_checkpoint(learning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training.safetensors"
    EndToEnd(epochs=1, checkpoint=path, **SMALL).fit(*learning)
    before = path.read_bytes()

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(ModelFileError, match=r"cannot write the checkpoint to .*No space left"):
        EndToEnd(epochs=2, checkpoint=path, **SMALL).fit(*learning, resume=True)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, "seed 0, now 3"),
        ({"learning_rate": 0.5}, "learning_rate 0.0001, now 0.5"),
        ({"loss": "softmax"}, "loss 'sigmoid', now 'softmax'"),
        ({"width": 0.06}, "width 0.05, now 0.06"),
    ],
)
def test_a_checkpoint_of_other_settings(learning: Any, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "training.safetensors"
    EndToEnd(epochs=1, checkpoint=path, **SMALL).fit(*learning)
    with pytest.raises(ModelFileError, match=f"checkpoint of another training: {named}"):
        EndToEnd(epochs=2, checkpoint=path, **{**SMALL, **change}).fit(*learning, resume=True)


def test_a_checkpoint_of_other_images_or_labels(learning: Any, tmp_path: Path) -> None:
    paths, labels, words = learning
    path = tmp_path / "training.safetensors"
    estimator = EndToEnd(epochs=1, checkpoint=path, **SMALL).fit(paths, labels, words)
    assert estimator.vocabulary_ == tuple(words)
    with pytest.raises(ModelFileError, match=r"another training: images '\w+', now"):
        estimator.fit([*paths[1:], paths[0]], labels, words, resume=True)
    with pytest.raises(NotFittedError):
        estimator.scores(paths)
    with pytest.raises(ModelFileError, match=r"another training: labels '\w+', now"):
        estimator.fit(paths, [*labels[1:], labels[0]], words, resume=True)
    with pytest.raises(ModelFileError, match=r"another training: labels '\w+', now"):
        estimator.fit(paths, labels, [*words, "dragon"], resume=True)


def test_files_that_are_no_checkpoint(learning: Any, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    estimator = EndToEnd(epochs=1, checkpoint=path, **SMALL)
    with pytest.raises(ModelFileError, match="no such checkpoint to go on from"):
        estimator.fit(*learning, resume=True)
    estimator.fit(*learning)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["gpuannot"])["schema"] == "gpuannot.checkpoint/1"
    with pytest.raises(ModelFileError, match="exists: go on from it with resume=True, or remove it"):
        estimator.fit(*learning)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="is not a whole checkpoint"):
        estimator.fit(*learning, resume=True)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="but not a checkpoint of this version"):
        estimator.fit(*learning, resume=True)
    with pytest.raises(ValueError, match="resume needs the checkpoint's path"):
        EndToEnd(**SMALL).fit(*learning, resume=True)


def test_early_stop_takes_the_best_epoch(learning: Any) -> None:
    """A step size of nearly 0 never improves on the first epoch: it stops after ``patience`` more."""
    estimator = EndToEnd(epochs=50, patience=3, learning_rate=1e-12, weight_decay=0, holdout=0.3, **SMALL).fit(*learning)
    assert len(estimator.history_) < 50
    best = max(estimator.history_, key=lambda entry: (entry["holdout_f1"], -entry["holdout_loss"]))
    assert len(estimator.history_) == best["epoch"] + 3
    shorter = EndToEnd(epochs=int(best["epoch"]), patience=3, learning_rate=1e-12, weight_decay=0, holdout=0.3, **SMALL).fit(
        *learning
    )
    assert all(torch.equal(value, weights_of(shorter)[name]) for name, value in weights_of(estimator).items())


def test_the_holdout_is_scored_by_the_protocol(learning: Any) -> None:
    """The last epoch's F1 and loss again, from the estimator's own scores of the images that it held out."""
    paths, labels, words = learning
    estimator = EndToEnd(epochs=1, holdout=0.25, learning_rate=0.05, **SMALL).fit(paths, labels, words)
    truth = matrix(labels, words)
    learn, held = cover_holdout(sparse.csr_array(truth), 6, 0)
    assert estimator.counts_.tolist() == truth[learn].sum(axis=0).tolist()
    logits = estimator.scores([paths[position] for position in held])
    index = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
    reached = evaluate(index.numpy(), sparse.csr_array(truth[held]))
    assert estimator.history_[0]["holdout_f1"] == reached.f1
    known = estimator.counts_ > 0
    assert torch.isneginf(logits[:, ~known]).all() and torch.isfinite(logits[:, known]).all()


# ---- bad input


def test_unreadable_images_are_left_out(learning: Any, tmp_path: Path) -> None:
    paths, labels, words = learning
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(paths[0].read_bytes()[:500])
    sources: list[Any] = [*paths[:3], broken, *paths[3:], tmp_path / "missing.jpg"]
    given = [*labels[:3], ["sky"], *labels[3:], ["sea"]]
    estimator = EndToEnd(epochs=1, holdout=0, **SMALL)
    with pytest.warns(UserWarning, match=r"2 of 26 images could not be read .*broken\.jpg"):
        estimator.fit(sources, given, words)
    assert [failure.path for failure in estimator.failures_] == [str(broken), str(tmp_path / "missing.jpg")]
    assert estimator.counts_.tolist() == matrix(labels, words).sum(axis=0).tolist()
    with pytest.warns(UserWarning, match="2 of 26"):
        scores = estimator.scores(sources)
    assert estimator.positions_.tolist() == [0, 1, 2, *range(4, 25)] and len(estimator.failures_) == 2
    assert torch.allclose(scores, estimator.scores(paths), rtol=1e-4, atol=1e-4) and not estimator.failures_
    with pytest.raises(DataError, match=r"broken.jpg: truncated"):
        estimator.fit([broken], [["sky"]], words)
    with pytest.raises(NotFittedError, match="this EndToEnd has learnt nothing yet"):
        estimator.annotate(paths)


def test_an_image_that_disappears_during_training(learning: Any, tmp_path: Path) -> None:
    path = tmp_path / "scene.jpg"
    path.write_bytes(learning[0][0].read_bytes())
    decoded = DecodedImages([path], 32, interpolation="bicubic", batch_size=1, memory=0, progress=False)
    path.unlink()
    with pytest.raises(ImageError, match=r"scene\.jpg: no such file"):
        list(decoded.batches(np.array([0]), 1))


def test_sources_of_every_kind_give_the_same_scores(learning: Any) -> None:
    paths, labels, words = learning
    estimator = EndToEnd(epochs=1, **SMALL).fit(paths, labels, words)
    with Image.open(paths[2]) as image:
        mixed = [paths[0].read_bytes(), decode_image(paths[1]), image.copy()]
    assert torch.equal(estimator.scores(mixed), estimator.scores(paths[:3]))
    assert estimator.scores([]).shape == (0, len(words)) and estimator.annotate([], 2)[0].shape == (0, 2)
    assert estimator.scores(paths[0].parent).shape == (24, len(words))


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda e, p, y, w: e.fit(p, y[:-1], w), "24 images but labels for 23"),
        (lambda e, p, y, w: e.fit(p, [[]] * 24, w), "no image to learn from carries a word"),
        (lambda e, p, y, w: e.fit([], [], w), "no images were given"),
        (lambda e, p, y, w: e.fit(p, y, ["sky"]), "words are not in the vocabulary"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(learning: Any, fit: Callable[..., Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(EndToEnd(epochs=1, **SMALL), *learning)


def test_a_label_matrix_numbers_the_words(learning: Any) -> None:
    paths, labels, words = learning
    estimator = EndToEnd(epochs=1, loss="softmax", **SMALL).fit(paths[:6], matrix([*labels[:5], []], words))
    assert estimator.vocabulary_ == tuple(str(number) for number in range(len(words)))
    with pytest.raises(ValueError, match=r"k = 99 must lie in 1…\d+"):
        estimator.annotate(paths[:1], 99)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "resnet"}, "network 'resnet' is unknown; choose one of vgg16, alexnet"),
        ({"mode": "warm"}, "mode 'warm' is unknown; choose one of scratch, finetune, frozen"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown; choose one of sigmoid, softmax"),
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 must be at least"),
        ({"optimizer": "momentum"}, "optimizer 'momentum' is unknown; choose one of sgd, adam"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 must be at least 0"),
        ({"holdout": 1.0}, "holdout = 1.0 must be at least 0 and at most 0.9"),
        ({"patience": 0}, "patience = 0 must be at least 1"),
        ({"network": "alexnet", "input_size": 62}, "input_size = 62 must be at least 63"),
        ({"freeze": "conv3"}, "freeze = 'conv3' must be, with mode='finetune', one of conv1_1, .*, conv5_3, or None"),
        ({"freeze": "conv4_3", "mode": "scratch"}, "freeze = 'conv4_3' must be, with mode='finetune'"),
        ({"mode": "frozen", "width": 0.5}, "width = 0.5: trained weights are those of the whole network"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndToEnd(device="cpu", **settings)


def test_weights_that_are_not_there(learning: Any) -> None:
    with pytest.raises(WeightsError, match="carries weights of vgg16, none of alexnet"):
        EndToEnd("alexnet", "frozen", weights="embedded", device="cpu").fit(*learning)


def test_a_training_that_diverges(learning: Any) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) in epoch \d: use a lower learning_rate than 1e\+20"):
        EndToEnd(epochs=3, learning_rate=1e20, **SMALL).fit(*learning)


@pytest.mark.skipif(not cpu_has_fast_bfloat16(), reason="this processor gains nothing by bfloat16")
def test_mixed_precision_on_a_cpu(learning: Any) -> None:
    """Products in bfloat16 leave losses near those of float32, and weights in float32."""
    mixed, single = (EndToEnd(epochs=3, amp=amp, **SMALL).fit(*learning) for amp in (True, False))
    assert learnt(mixed) != learnt(single)
    for one, other in zip(mixed.history_, single.history_, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.01)
    assert all(value.dtype == torch.float32 for value in mixed.network_.parameters())
    assert mixed.scores(learning[0][:2]).dtype == torch.float32


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["scratch", "frozen"])
def test_mixed_precision(scene_arrays: Any, mode: str) -> None:
    """In 16 bits the losses stay near those of float32, and the weights and momentum are float32."""
    images, labels = scene_arrays
    settings: dict[str, Any] = {"mode": mode, "weights": "embedded", "input_size": 64, "holdout": 0, "epochs": 4, "device": "cuda"}
    half, single = (EndToEnd("vgg16", amp=amp, **settings).fit(images, labels) for amp in (True, False))
    assert half.history_[0]["loss"] != single.history_[0]["loss"]
    assert half.history_[-1]["loss"] == pytest.approx(single.history_[-1]["loss"], rel=0.1)
    assert half.history_[-1]["loss"] < half.history_[0]["loss"]
    assert all(value.dtype == torch.float32 for value in half.network_.parameters())
    assert half.scores(images).device.type == "cuda" and half.scores(images).dtype == torch.float32


@pytest.mark.gpu
def test_resuming_on_a_gpu(learning: Any, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    settings = {**SMALL, "device": "cuda", "width": 1.0}
    EndToEnd(epochs=1, checkpoint=path, **settings).fit(*learning)
    resumed = EndToEnd(epochs=2, checkpoint=path, **settings).fit(*learning, resume=True)
    whole = EndToEnd(epochs=2, **settings).fit(*learning)
    assert resumed.history_[-1]["loss"] == pytest.approx(whole.history_[-1]["loss"], rel=0.05)


@pytest.mark.gpu
def test_float16_scales_its_loss() -> None:
    """What a GPU before compute capability 8.0 runs: gradients that underflow in float16 still move the weights."""
    layer = nn.Linear(4, 2).cuda()
    trainer = Trainer(layer, layer, "sigmoid", learning_rate=1.0, momentum=0.9, weight_decay=0, dtype=torch.float16)
    inputs, labels = torch.ones(8, 4, device="cuda"), torch.zeros(8, 2, device="cuda")
    losses = [float(trainer.step(inputs, labels)) for _ in range(5)]
    assert losses[-1] < losses[0] and trainer.scale()["scale"] > 1
    assert layer.weight.dtype == torch.float32
