"""Annotations as files that other tools read, one format a file.

* Rows, which :mod:`gpuannot.jobs.readers` reads back and of which batch runs are made: Parquet, JSON lines, CSV;
* documents, one a run: COCO, Label Studio, FiftyOne, an image folder of Hugging Face;
* tags, one file an image: XMP sidecars, ``.txt`` captions.

All have one protocol, :class:`~gpuannot.jobs.writers.protocol.Writer`.
"""

from .document import Naming
from .documents import DOCUMENTS
from .ledger import failure_lines, read_ledger
from .rows import rows
from .selection import Selection
from .tags import TAGS, TagWriter
from .writer import FORMATS, AnnotationWriter

__all__ = [
    "DOCUMENTS", "FORMATS", "TAGS", "AnnotationWriter", "Naming", "Selection", "TagWriter", "failure_lines", "read_ledger", "rows",
]  # fmt: skip
