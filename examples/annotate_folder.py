"""Learn from a folder of labelled images, then annotate another folder.

    python examples/annotate_folder.py LABELLED_FOLDER FOLDER words.csv

LABELLED_FOLDER holds labels.json or labels.csv, or a subfolder of images for each word. Every image of FOLDER gets a row in
words.csv; those that cannot be read are listed at the end.
"""

import sys
from pathlib import Path

from gpuannot import Annotator, Inputs
from gpuannot.datasets import load_labelled_images
from gpuannot.images.batches import ImageFailure
from gpuannot.jobs.writers import AnnotationWriter


def main(labelled: str, folder: str, output: str) -> None:
    images = load_labelled_images(labelled)
    annotator = Annotator().fit(images.paths, images.labels, vocabulary=images.vocabulary)
    print(f"learnt {len(annotator.bank_.known)} words from {len(images)} images")

    failures: list[ImageFailure] = []
    with AnnotationWriter(output, model_sha256=annotator.to_model_file().sha256) as writer:
        for part in annotator.stream(Inputs(folder), k=min(5, len(annotator.bank_.known))):
            writer.write(part)
            failures += part.failures
            for name, words in zip(part.names, part.words, strict=True):
                print(f"{Path(name).name}: {', '.join(words)}")
        writer.commit()
    print(f"{writer.rows} images annotated in {output}, {len(failures)} failed")
    for failure in failures:
        print(f"  {failure.path}: {failure.reason}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
