"""Fit and annotate on a Dask cluster: workers of this machine, or those of a scheduler that is running.

    python examples/dask_cluster.py LABELLED_FOLDER FOLDER words/ [tcp://scheduler:8786]

The model and the parts in words/ have the same bytes as those of one process, whatever the number of workers, and whichever of them
dies. Workers of other machines must see the folders under the same paths.
"""

import sys

from gpuannot import Annotator
from gpuannot.datasets import load_labelled_images


def main(labelled: str, folder: str, output: str, scheduler: str | None = None) -> None:
    cluster = {"scheduler": scheduler} if scheduler else {"workers": 2}
    images = load_labelled_images(labelled)
    annotator = Annotator().fit(images.paths, images.labels, vocabulary=images.vocabulary, **cluster)
    print(f"learnt {len(annotator.bank_.known)} words from {len(images)} images")

    summary = annotator.batch(folder, output, k=3, part_size=4, resume=True, **cluster)
    print(f"{output}: {summary.rows} images annotated, {summary.failures} failed, by {summary.workers} workers")
    print(f"{summary.images_per_second:.1f} images/s, limited by {summary.limited_by}")


if __name__ == "__main__":  # workers import this file, and must not start workers of their own
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
