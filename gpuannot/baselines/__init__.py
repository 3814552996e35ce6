"""The systems the paper compares with, on the same features, metrics and command as ours.

Each is an estimator with ``fit``, ``scores`` and ``annotate``, over feature arrays (:class:`~gpuannot.baselines.base.Baseline`) or,
end to end, over images (:class:`~gpuannot.baselines.end_to_end.EndToEnd`), in torch, so that one code serves the CPU and a GPU.
"""
