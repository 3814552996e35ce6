"""Why a source gives no pixels, before its name is known."""

from __future__ import annotations

from ..errors import Stage

SAVE_ANEW = "save it with 8 bits a sample, its samples together, uncompressed or with LZW"


class Unusable(Exception):
    """Why a source gives no pixels; `decode_image` adds its name."""

    def __init__(self, reason: str, stage: Stage = "decode") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage
