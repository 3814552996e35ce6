"""``python -m gpuannot`` is the ``gpuannot`` command."""

from .cli.main import main

if __name__ == "__main__":
    main()
