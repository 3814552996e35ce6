"""Why the paper's VGG-16 gives every image the same five words: ``python -m benchmarks.collapse corel5k FOLDER``.

The network is trained with the step size usual for it, from a random start or from ImageNet's weights (``--mode finetune --freeze
conv4_3``). What it then gives the test images is held against a constant answer, the five words most frequent among the training
images, and the spread of its logits over images against that over words: where it learns the words' frequencies and nothing of the
images, the first is nothing beside the second. Units of its last hidden layer that answer no test image at all say why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import parser_of, write_if_asked
from gpuannot.baselines.end_to_end import EndToEnd
from gpuannot.baselines.training import LOSSES
from gpuannot.datasets.label_files import LabelledImages, load_benchmark
from gpuannot.experiments.reproduce import PAPER
from gpuannot.metrics import evaluate

K = 5


def most_frequent(train: LabelledImages) -> NDArray[np.int64]:
    """The K words that most training images carry, (K,)."""
    return np.argsort(-np.asarray(train.labels.sum(axis=0)).ravel(), kind="stable")[:K].astype(np.int64)


def constant_answer(train: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """The scores of giving every test image the most frequent words."""
    words = most_frequent(train)
    scores = evaluate(np.tile(words, (len(test), 1)), test.labels)
    return {"words": [train.vocabulary[word] for word in words], "scores": scores.to_dict()}


def loss_of_frequencies(train: LabelledImages, loss: str) -> float:
    """The training loss of logits that say how frequent each word is and nothing else."""
    labels = torch.from_numpy(train.labels.toarray()).float()
    share = (labels.sum(dim=0) + 1) / (len(labels) + 2)
    logits = torch.logit(share) if loss == "sigmoid" else share.log()
    return float(LOSSES[loss](logits.expand(len(labels), -1), labels))


def of_network(estimator: EndToEnd, test: LabelledImages) -> dict[str, Any]:
    """What a trained network gives the test images."""
    strongest: list[Tensor] = []
    hook = estimator.network_.last.register_forward_pre_hook(lambda _, seen: strongest.append(seen[0].amax(dim=0).cpu()))
    logits = estimator.scores(test.paths).cpu()
    hook.remove()
    known = logits[:, torch.isfinite(logits).all(dim=0)]
    index = logits.topk(K, dim=1).indices.numpy()
    answers, times = np.unique(np.sort(index, axis=1), axis=0, return_counts=True)
    return {
        "answers": len(answers),
        "most_given": {"words": [test.vocabulary[word] for word in answers[times.argmax()]], "images": int(times.max())},
        "spread_over_images": float(known.std(dim=0).mean()),
        "spread_over_words": float(known.mean(dim=0).std()),
        "silent_units": float((torch.stack(strongest).amax(dim=0) <= 0).float().mean()),
        "scores": evaluate(index, test.labels[estimator.positions_]).to_dict(),
    }


def main() -> None:
    parser = parser_of("benchmarks.collapse", __doc__)
    parser.add_argument("dataset", choices=("corel5k", "iaprtc12", "espgame"))
    parser.add_argument("data", help="its folder")
    parser.add_argument("--mode", choices=("scratch", "finetune"), default="scratch")
    parser.add_argument("--freeze", metavar="LAYER", help="the last convolution that stays as it is: conv4_3")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="to go on from; beside it lies what frozen layers give")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate, by default that of the network's authors")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--epochs", type=int, default=3, help="0 scores the constant answer alone")
    parser.add_argument("--size", type=int, default=64, help="side of the network's input; 224 is that of the paper")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    train, test = load_benchmark(arguments.dataset, arguments.data)
    content: dict[str, Any] = {
        "dataset": arguments.dataset,
        "k": K,
        "paper": PAPER["VGG-16, end to end"].get(arguments.dataset),
        "constant": constant_answer(train, test),
        "loss_of_frequencies": loss_of_frequencies(train, "sigmoid"),
    }
    print(content, flush=True)
    if arguments.epochs:
        settings = {
            "mode": arguments.mode, "freeze": arguments.freeze, "optimizer": "sgd", "learning_rate": arguments.rate,
            "batch_size": arguments.batch, "input_size": arguments.size, "width": arguments.width,
            "crop": not arguments.freeze, "flip": not arguments.freeze,
        }  # fmt: skip
        checkpoint = arguments.checkpoint
        estimator = EndToEnd(
            "vgg16", **settings, epochs=arguments.epochs, holdout=0, checkpoint=checkpoint, device=arguments.device
        )
        resume = checkpoint is not None and checkpoint.exists()
        estimator.fit(train.paths, train.labels, train.vocabulary, resume=resume, progress=True)
        content |= {
            "settings": settings,
            "steps": arguments.epochs * -(-len(train) // estimator.batch_size),
            "history": estimator.history_,
            "network": of_network(estimator, test),
        }
        print(content["history"], content["network"], flush=True)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
