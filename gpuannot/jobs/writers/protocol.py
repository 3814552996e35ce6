"""What a writer of annotations is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...images.decode_task import ImageFailure
from ...model.annotations import Annotations


class Writer(Protocol):
    """Takes annotations batch by batch.

    Attributes:
        failures: images that were given and whose words could not be written, of the stage ``write``. They stop no others.
    """

    @property
    def failures(self) -> Sequence[ImageFailure]: ...

    def write(self, annotations: Annotations) -> None:
        """Add the words of some images."""

    def close(self) -> None:
        """Finish what is written."""
