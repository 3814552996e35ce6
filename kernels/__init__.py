"""Raw CUDA kernels of the GPU path, installed as ``gpuannot.kernels``."""
