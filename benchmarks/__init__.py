"""Measurements: ``python -m benchmarks.bench_trunk``. ``results/`` holds them with commit, machine, versions and date."""
