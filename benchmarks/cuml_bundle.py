"""cuML from a bundle, for a machine that can reach no registry: ``python -m benchmarks.cuml_bundle BUNDLE.tar.xz FOLDER``.

A bundle holds cuML's packages without NVIDIA's libraries, which come with torch, and without cuDF, which cuML imports and PCA and
K-means do not call. It is unpacked into the folder, once; links lead to the machine's libraries, and modules whose every attribute
is an empty class stand in cuDF's place. What to put first on PYTHONPATH is printed.
"""

from __future__ import annotations

import re
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

_STAND_INS = ("cudf", "pylibcudf")
_STAND_IN = '''\
"""Stands for a package that cuML imports and does not call here: each attribute is an empty class, each submodule as this one."""
import sys
from importlib.machinery import ModuleSpec


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, _Finder, is_package=True) if name.startswith(__name__ + ".") else None

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        module.__getattr__ = _attribute


def _attribute(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


__getattr__ = _attribute
sys.meta_path.insert(0, _Finder)
'''


def unpack(bundle: Path, folder: Path, nvidia: Path) -> list[Path]:
    """What to put on PYTHONPATH, first to last.

    Args:
        bundle: the tar file.
        folder: where to.
        nvidia: the machine's folder of NVIDIA's libraries.

    Raises:
        FileNotFoundError: a library that the bundle asks for is not there.
    """
    done, stand_ins = folder / ".unpacked", folder / "stand_ins"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(bundle) as file:
            file.extractall(folder, filter="data")
        _link(folder / "nvidia", nvidia)
        for library in _asked_for(folder):
            if not library.exists():
                _link(library, _of_machine(library.name, nvidia))
        for name in _STAND_INS:
            (stand_ins / name).mkdir(parents=True, exist_ok=True)
            (stand_ins / name / "__init__.py").write_text(_STAND_IN)
        done.touch()
    return [stand_ins, folder]


def _asked_for(folder: Path) -> set[Path]:
    """The copies of NVRTC, under names of their own, that the bundle's libraries are linked with."""
    found = set()
    for libraries in folder.glob("*.libs"):
        for path in folder.rglob("*.so*"):
            names = set(re.findall(rb"libnvrtc-[0-9a-f]+\.so[.0-9]*", path.read_bytes()))
            found |= {libraries / name.decode() for name in names}
    return found


def _of_machine(name: str, nvidia: Path) -> Path:
    major = name.partition(".so.")[2].partition(".")[0]
    libraries = sorted(nvidia.rglob(f"libnvrtc.so.{major}"))
    if not libraries:
        raise FileNotFoundError(f"the bundle asks for {name}, and there is no libnvrtc.so.{major} in {nvidia}")
    return libraries[0]


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit((__doc__ or "").splitlines()[0])
    spec = find_spec("nvidia")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("there is no folder of NVIDIA's libraries beside torch: install torch for CUDA")
    print(":".join(map(str, unpack(Path(sys.argv[1]), Path(sys.argv[2]), Path(next(iter(spec.submodule_search_locations)))))))


if __name__ == "__main__":
    main()
