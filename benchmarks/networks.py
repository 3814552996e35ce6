"""A network end to end, as long as it takes: ``python -m benchmarks.networks corel5k FOLDER --checkpoint FILE --write NAME``.

Two trainings. The first holds out a ninth of the training images, 500 of Corel5k's, and stops once they show no better F1; the
second takes all training images for as many epochs as were best, and scores the test images once. Each writes its checkpoint
(``FILE``, and ``FILE.all``) after every epoch: a run that was stopped, or killed, goes on where the same command is given again.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from gpuannot.baselines.comparison import ROWS
from gpuannot.baselines.end_to_end import EndToEnd
from gpuannot.baselines.networks import SMALLEST_INPUT
from gpuannot.baselines.training import LEARNING_RATES, LOSSES, OPTIMIZERS_OF, best_epoch
from gpuannot.datasets.label_files import LabelledImages, load_benchmark
from gpuannot.experiments.bootstrap import resample
from gpuannot.metrics import evaluate

K = 5


def trained(
    path: Path, images: LabelledImages, settings: dict[str, Any], *, held: int = 0, epochs: int, device: str = "auto"
) -> EndToEnd:
    """The network after at most so many epochs, the checkpoint's included where there is one."""
    estimator = EndToEnd(**settings, epochs=epochs, holdout=held / len(images), checkpoint=path, device=device)
    return estimator.fit(images.paths, images.labels, images.vocabulary, resume=path.exists(), progress=True)


def costs(history: list[dict[str, float]]) -> dict[str, float]:
    """The median epoch's seconds, the first one's apart, in which libraries warm up; and the most memory."""
    seconds = [entry["seconds"] for entry in history]
    found = {"seconds_an_epoch": statistics.median(seconds[1:] or seconds)}
    if "peak_memory" in history[-1]:
        found["peak_memory"] = history[-1]["peak_memory"]
    return found


def scored(estimator: EndToEnd, test: LabelledImages) -> dict[str, Any]:
    """The protocol's scores of the test images, with the standard error of F1 over them."""
    index = estimator.annotate(test.paths, K)[0].cpu().numpy()
    truth = test.labels[estimator.positions_]
    return {**evaluate(index, truth).to_dict(), "f1_error": resample(index, truth).standard_errors()["f1"]}


def method(network: str, mode: str) -> str:
    """The network's name in the table of every system, where it has a row there."""
    for row in ROWS:
        if row.features == "images" and (built := row.build()).network == network and built.mode == mode:  # type: ignore[union-attr]
            return row.method
    return f"{network}, {mode}"


def main() -> None:
    parser = parser_of("benchmarks.networks", __doc__)
    parser.add_argument("dataset", choices=("corel5k", "iaprtc12", "espgame"))
    parser.add_argument("data", help="its folder")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="beside it FILE.all is written")
    parser.add_argument("--network", choices=list(SMALLEST_INPUT), default="alexnet")
    parser.add_argument("--mode", choices=list(OPTIMIZERS_OF), default="scratch")
    parser.add_argument("--loss", choices=list(LOSSES), default="sigmoid")
    parser.add_argument("--freeze", metavar="LAYER", help="the last convolution that stays as it is: conv4_3")
    parser.add_argument("--optimizer", choices=list(LEARNING_RATES), help="by default the mode's")
    parser.add_argument("--rate", type=float, help="learning rate; by default the mode's")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better one")
    parser.add_argument(
        "--fixed-window", action="store_true", help="the middle of each image as it is, no random windows and mirroring"
    )
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    train, test = load_benchmark(arguments.dataset, arguments.data)
    settings = {
        "network": arguments.network, "mode": arguments.mode, "loss": arguments.loss, "freeze": arguments.freeze,
        "optimizer": arguments.optimizer, "learning_rate": arguments.rate, "batch_size": arguments.batch,
        "input_size": arguments.size, "width": arguments.width,
        "patience": arguments.patience, "crop": not arguments.fixed_window, "flip": not arguments.fixed_window,
    }  # fmt: skip
    held = len(train) // 9
    first = trained(arguments.checkpoint, train, settings, held=held, epochs=arguments.epochs, device=arguments.device)
    best = best_epoch(first.history_)
    content: dict[str, Any] = {
        "dataset": arguments.dataset,
        "images": {"train": len(train), "test": len(test), "held": held},
        "settings": {**settings, "optimizer": first.optimizer, "learning_rate": first.learning_rate},
        "k": K,
        "epochs": best,
        "holdout": {"history": first.history_, **costs(first.history_)},
        "rows": [],
    }
    print(f"best of {len(first.history_)} epochs on {held} held images: {first.history_[best - 1]}", flush=True)
    keep_if_asked(parser, arguments, content)
    everything = arguments.checkpoint.with_name(arguments.checkpoint.name + ".all")
    second = trained(everything, train, settings, epochs=best, device=arguments.device)
    row = {"method": method(arguments.network, arguments.mode), "features": "pixels", "scores": scored(second, test)}
    content |= {"all": {"history": second.history_, **costs(second.history_)}, "rows": [row]}
    print(row, flush=True)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
