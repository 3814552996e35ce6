"""The paper's experiment, the search of settings, the demo. Imports all but kernels, reference, baselines and cli."""
