"""``python -m gpuannot`` is the ``gpuannot`` command."""

from .cli import main

if __name__ == "__main__":
    main()
