"""Teach a model new words, and more examples of those it knows, without fitting again.

    python examples/add_words.py model.safetensors MORE_LABELLED_IMAGES new.safetensors

Normalisation, PCA and visual words stay as they were; the word vectors become those of one fit over all images, old and new.
"""

import sys
import time

from gpuannot import Annotator
from gpuannot.datasets import load_labelled_images


def main(model: str, labelled: str, output: str) -> None:
    annotator = Annotator.load(model)
    known = set(annotator.vocabulary)
    images = load_labelled_images(labelled)
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in range(len(images))]

    start = time.perf_counter()
    annotator.partial_fit(images.paths, words)
    print(f"{len(images)} images learnt in {time.perf_counter() - start:.1f} s")
    print("new words:", ", ".join(word for word in annotator.vocabulary if word not in known) or "none")
    print(f"{annotator.save(output)}: {len(annotator.bank_.known)} words")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
