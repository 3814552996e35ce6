"""Runs the project's own ``.cu`` sources, unchanged, on a machine without a GPU.

``HostRawKernel(code, name, options)(grid, block, args, shared_mem=...)`` takes what ``cupy.RawKernel`` takes, with NumPy arrays
in place of device arrays. The host compiler builds a kernel once per source and options; ``cuda_on_cpu.h`` says how it runs.

What is wrong on a device but often goes unseen there fails here:

* a missing barrier: the order in which threads run follows ``seed``, so a right kernel gives the same bits for every seed;
* a barrier that not all threads reach: aborts with a message;
* uninitialised shared memory: poisoned before each block;
* an access out of bounds: arguments made by ``guarded`` and dynamic shared memory end at a page that faults;
* a vector access at a wrong address, an index past a static array: ``-fsanitize=alignment,bounds`` aborts with a message.

A check that is expected to crash runs in a process of its own: see ``isolated``.
"""

from .guarded import Guarded
from .host_kernel import HostRawKernel, compiler
from .isolated import run_isolated

__all__ = ["Guarded", "HostRawKernel", "compiler", "run_isolated"]
