"""The systems the paper compares with, on the same features, metrics and command as ours.

Each is an estimator over feature arrays (:class:`~gpuannot.baselines.base.Baseline`) with ``fit``, ``scores`` and ``annotate``,
in torch, so that one code serves the CPU and a GPU.
"""
