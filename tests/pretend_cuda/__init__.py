"""A CUDA device that is not there: the CUDA side of the library, run on a machine without a GPU and held to a GPU's rules.

Inside ``with PretendCuda():`` there are two CUDA devices. Their tensors say ``cuda:0`` or ``cuda:1`` and hold their values on the
CPU. In the place of CuPy stands one that runs the ``.cu`` files by ``cuda_on_cpu``, so that the loader, its checks, plans and
streams are the library's own. Of torch the names in ``device`` are replaced; of the library its reading of weights alone.

What a GPU refuses, or gets wrong without a word, raises here:

* :class:`MixedDevices`: an operator or a kernel that is given memory of two devices, or of the host;
* :class:`WaitsForDevice`: a wait for the device, or a copy that waits, under ``set_sync_debug_mode("error")`` or in a capture;
* :class:`UnorderedStreams`: work on one stream that needs what another stream makes and does not wait for it;
* :class:`StaleGraph`: a graph that is replayed after memory that it reads was given back.

Copies to the host that do not wait leave poison in their target until something waits for them, and so does a capture in what it
allocated, until the graph is replayed: who reads too early gets wrong numbers. What this cannot see: cuDNN, cuBLAS, cuSPARSE and
cuML themselves, their rounding and algorithms; how much memory there is; how long anything takes.
"""

from .device import PretendCuda
from .errors import MixedDevices, StaleGraph, UnorderedStreams, WaitsForDevice

__all__ = ["MixedDevices", "PretendCuda", "StaleGraph", "UnorderedStreams", "WaitsForDevice"]
