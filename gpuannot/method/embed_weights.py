"""Make the int8 trunk that the package carries: ``python -m gpuannot.method.embed_weights SOURCE``.

SOURCE is a file of VGG-16 convolution weights in the Oxford convention (``features.N.weight``, ``features.N.bias``). The 13
layers are rounded to int8 with one scale per output channel and written to ``gpuannot/data``. The same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from .weights import CONVOLUTIONS, EMBEDDED_FILE, load_weights, quantize_int8

# Written as one entry: the order in which several are written differs from process to process.
METADATA = {
    "convention": "caffe",
    "model": "VGG-16 (configuration D), ILSVRC-2012, the 13 convolution layers",
    "quantization": "int8 · scale, one float32 scale per output channel; biases float32",
    "author": "Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford",
    "licence": "CC BY 4.0; changed from the original: rounded to int8",
}


def embed(source: str | Path, target: str | Path) -> Path:
    """Write ``target``, the int8 form of the Oxford-convention weights in ``source``.

    Raises:
        WeightsError: ``source`` is no complete file of Oxford-convention weights.
    """
    weights = load_weights(source, convention="caffe")
    tensors = {}
    for _, module, _, _ in CONVOLUTIONS:
        weight = weights.tensors[f"{module}.weight"]
        if module == "features.0":
            weight = weight.flip(1)  # stored in the convention's own BGR order
        tensors[f"{module}.weight"], tensors[f"{module}.scale"] = quantize_int8(weight)
        tensors[f"{module}.bias"] = weights.tensors[f"{module}.bias"]
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target, metadata={"gpuannot": json.dumps(METADATA)})
    return Path(target)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gpuannot.method.embed_weights", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("source", help="file of VGG-16 convolution weights, Oxford convention (.safetensors or .pth)")
    parser.add_argument("--output", default=Path(__file__).parents[1] / "data" / EMBEDDED_FILE, help="default: %(default)s")
    arguments = parser.parse_args()
    path = embed(arguments.source, arguments.output)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
