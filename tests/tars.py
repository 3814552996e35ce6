"""Tar shards for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any


def write_tar(path: Path, files: dict[str, bytes | None], **options: Any) -> Path:
    """A shard; a folder where there is no content."""
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode, **options) as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content or b"")
            header.type = tarfile.REGTYPE if content is not None else tarfile.DIRTYPE
            tar.addfile(header, io.BytesIO(content or b""))
    return path
