"""Package metadata. ``kernels/`` lies beside the library and is installed as ``gpuannot.kernels``."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "gpuannot" / "system" / "version.py").read_text()).group(1)

setup(
    name="gpuannot",
    version=VERSION,
    description="Training-free image annotation on the GPU: conv5_2 features, VLAD, word vectors, nearest words",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "gpuannot/data/NOTICE", "gpuannot/report/page/chart.LICENSE.md"],
    python_requires=">=3.11",
    packages=[
        "gpuannot",
        "gpuannot.baselines",
        "gpuannot.cli",
        "gpuannot.data",
        "gpuannot.datasets",
        "gpuannot.datasets.scenes",
        "gpuannot.experiments",
        "gpuannot.heads",
        "gpuannot.images",
        "gpuannot.jobs",
        "gpuannot.jobs.writers",
        "gpuannot.kernels",
        "gpuannot.method",
        "gpuannot.method.trunks",
        "gpuannot.model",
        "gpuannot.reference",
        "gpuannot.report",
        "gpuannot.report.page",
        "gpuannot.system",
    ],
    package_dir={"gpuannot": "gpuannot", "gpuannot.kernels": "kernels"},
    package_data={
        "gpuannot": ["py.typed"],
        "gpuannot.data": ["*.safetensors", "NOTICE"],
        "gpuannot.kernels": ["*.cu", "*.cuh"],
        "gpuannot.report.page": ["*.html", "*.css", "*.js", "*.md"],
    },
    entry_points={"console_scripts": ["gpuannot = gpuannot.cli.main:main"]},
    install_requires=[
        "fsspec>=2024.2",
        "jinja2>=3.1",
        "lxml>=5",
        "numpy>=1.26",
        "pillow>=10.3",
        "platformdirs>=4",
        "pyarrow>=15",
        "rich>=13",
        "safetensors>=0.4.3",
        "scikit-learn>=1.4",
        "scipy>=1.12",
        "threadpoolctl>=3.1",
        "torch>=2.6",
        "tqdm>=4.66",
        "typer>=0.12",
        "watchfiles>=0.24",
    ],
    extras_require={
        # The CPU needs nothing more; the name exists so that every machine installs gpuannot[<its device>].
        "cpu": [],
        "cuda13": ["cupy-cuda13x>=14", "cuml-cu13>=26.6", "torchvision"],
        # cuML for CUDA 12 and torch built for CUDA 12 end at these versions.
        "cuda12": ["torch>=2.6,<2.11", "torchvision", "cupy-cuda12x>=13.6", "cuml-cu12>=25.10,<26.4"],
        # What the benchmarks compare with, and their charts. cyvlfeat, which compiles against libvlfeat-dev, is a peer where it is.
        "bench": ["faiss-cpu>=1.8", "fastkmeans>=0.5", "matplotlib>=3.8", "opencv-python-headless>=4.9", "simplejpeg>=1.7"],
        # Trunks of timm, which needs the torchvision that was built for the installed torch.
        "timm": ["timm>=1.0.9", "torchvision"],
        "baselines": ["scikit-image>=0.22", "PyWavelets>=1.5"],
        # HEIC and JPEG XL; Pillow itself reads AVIF from this version on.
        "formats": ["pillow>=11.3", "pillow-heif>=1.0", "pillow-jxl-plugin>=1.3"],
        # cryptography makes the keys by which workers on one machine know each other.
        "dask": ["cryptography>=42", "dask>=2024.8", "distributed>=2024.8"],
        "docs": ["sphinx>=8.1", "myst-parser>=4", "furo>=2024.8.6", "latex2mathml>=3.77"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.15",
            "mypy>=1.15",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "pycocotools>=2.0.8",
            "matplotlib>=3.8",
            "markdown-it-py>=3",
            # The report's tests drive Debian's Chromium, where it is installed.
            "selenium>=4.20",
            "scikit-image>=0.22",
            "tifffile>=2024.2",
            "pillow>=11.3",
            "pillow-heif>=1.0",
            "pillow-jxl-plugin>=1.3",
            "PyWavelets>=1.5",
            "cryptography>=42",
            "dask>=2024.8",
            "distributed>=2024.8",
            # Readers of what batch runs write.
            "duckdb>=1",
            "polars>=1",
            "pandas>=2",
            # The notebook that a test runs.
            "ipykernel>=6.29",
            "nbclient>=0.10",
            # NVRTC compiles the kernels as CuPy would, without a GPU or a driver.
            "cuda-bindings>=13,<14; sys_platform == 'linux'",
            "nvidia-cuda-nvrtc>=13,<14; sys_platform == 'linux'",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
