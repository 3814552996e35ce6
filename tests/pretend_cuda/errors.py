"""What a pretended device raises."""

from __future__ import annotations


class MixedDevices(RuntimeError):
    """Memory of two devices, or of a device and the host, in one operator or kernel."""


class WaitsForDevice(RuntimeError):
    """The host waits for a device where it must not."""


class UnorderedStreams(RuntimeError):
    """Two streams use the same memory, and neither waits for the other."""


class StaleGraph(RuntimeError):
    """A graph was replayed whose memory is no longer there."""
