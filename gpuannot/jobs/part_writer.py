"""One part of a batch run on its way to the disk: its rows, its ledger, and last the note that it is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from types import TracebackType

from ..images.decode_task import ImageFailure
from ..model.annotations import Annotations
from ..system.atomic_files import write_whole
from .part_folder import PartFolder
from .run_record import PartDone, check_accounts, sha256_of
from .writers import AnnotationWriter, failure_lines


class PartWriter:
    """Takes the annotations of the inputs of one part, in order. Nothing of it stays without :meth:`commit`.

    Args:
        number: of the part.
        dimension: m·n, the length of a VLAD vector.

    Raises:
        OSError: it cannot write.
    """

    def __init__(self, folder: PartFolder, number: int, dimension: int) -> None:
        settings = folder.settings
        self._folder, self._number = folder, number
        self._rows = AnnotationWriter(
            folder.part_path(number),
            model_sha256=settings.model_sha256,
            overwrite=True,
            vectors=dimension if settings.vectors else None,
            confidence=settings.confidence,
        )
        self._failures: list[ImageFailure] = []
        self._failed: list[int] = []
        self._inputs = 0

    def write(self, annotations: Annotations, start: int, inputs: int) -> None:
        """Add what became of some inputs.

        Args:
            annotations: with ``positions`` in the part.
            start: place of the first of them in the part.
            inputs: how many they are.
        """
        self._rows.write(annotations)
        self._failures.extend(annotations.failures)
        self._failed += sorted(set(range(start, start + inputs)) - set(annotations.positions.tolist()))
        self._inputs += inputs

    def commit(self, replaced: PartDone | None = None) -> PartDone:
        """Make the part whole: its ledger, its rows, and last the note that says so.

        Args:
            replaced: the note of the whole part in whose place this one comes; a stop in between loses no row of either.

        Raises:
            RuntimeError: rows and failures do not add up to its inputs.
        """
        folder, part = self._folder, self._folder.part_path(self._number)
        starts = folder.inputs.starts
        check_accounts(f"{part}", starts[self._number + 1] - starts[self._number], self._rows.rows, len(self._failures))
        check_accounts(f"{part}", self._inputs, self._rows.rows, len(self._failed))
        files = {part.name: sha256_of(self._rows.finish())}
        ledger = folder.ledgers / f"part-{self._number:05d}.jsonl"
        entries = failure_lines(self._failures).encode()
        if entries:
            files[f"{ledger.parent.name}/{ledger.name}"] = sha256(entries).hexdigest()
        stages: dict[str, int] = {}
        for failure in self._failures:
            stages[failure.stage] = stages.get(failure.stage, 0) + 1
        names = folder.inputs.digest(self._number)
        done = PartDone(self._number, names, self._inputs, self._rows.rows, self._failed, dict(sorted(stages.items())), files)
        if replaced is not None:
            self._note(replace(replaced, coming=asdict(done)))
        if entries:
            write_whole(ledger, entries)
        else:
            ledger.unlink(missing_ok=True)
        self._rows.commit()
        self._note(done)
        return done

    def _note(self, done: PartDone) -> None:
        write_whole(self._folder.notes / f"{self._number:05d}.json", (json.dumps(asdict(done)) + "\n").encode())

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rows.__exit__(kind, error, trace)
