"""The CPU reference: one plain NumPy / SciPy / scikit-learn module a stage.

It is what gpuannot runs on where there is no GPU, the oracle of the tests and the baseline of the benchmarks; nothing here imports
the GPU side. Every function computes in the dtype it is given (float32 or float64) unless its docstring says otherwise.
"""
