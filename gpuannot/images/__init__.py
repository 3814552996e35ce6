"""Bytes → pixels: sources and containers, decoding, batches. Imports system."""

from .decode import decode_image

__all__ = ["decode_image"]
