"""Bytes → pixels: sources and containers, decoding, batches. Imports system."""
