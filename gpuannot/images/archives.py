"""Tar shards, plain and compressed, and zip archives: which images they hold, and the bytes of those that are read in order."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from ..errors import ImageError
from .decode import IMAGE_SUFFIXES, MAX_BYTES
from .input import Input, describe, utf8

_MAGIC = slice(257, 262)  # where a tar header says "ustar"
_MOST_ZEROS = 1 << 16  # at the end of an archive: writers fill up records, of 10 kB as a rule
_NO_HEADER = tuple(
    getattr(tarfile, f"{kind}HeaderError") for kind in ("Invalid", "Truncated", "Subsequent", "EOF")
)  # not what tarfile shows to all
_NO_IMAGE = "is a link or a special file, not an image"
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, lzma.LZMAError, zipfile.BadZipFile)


def is_image_name(path: str, left_out: Counter[str] | None) -> bool:
    """Whether a file in an archive or folder counts as an image by its name; others are counted by suffix, hidden ones are not."""
    name = os.path.basename(path)
    if name.startswith("."):
        return False
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        if left_out is not None:
            left_out[suffix] += 1
        return False
    return True


def is_damage(error: Exception) -> bool:
    """Whether an error is of the bytes that were read, and not of reading them, which may go well the next time."""
    return isinstance(error, _DAMAGE) or (isinstance(error, OSError) and error.errno is None)


# -- tar ---------------------------------------------------------------------------------------------------------------------------


class _Header(tarfile.TarInfo):
    """A tar header; where there should be one and is none, the next one.

    ``tarfile`` takes a broken header behind the first file, and one of zeros, for the end of the archive. What is passed over is
    noted in ``passed`` of the archive. Zeros alone between two headers are the end of one archive and the beginning of another.
    """

    @classmethod
    def fromtarfile(cls, tar: Any) -> Any:
        if tar.nested:  # in a chain of headers, such as a long name and what it is the name of: its first one is passed over
            return super().fromtarfile(tar)
        start = tar.fileobj.tell()
        tar.nested = True
        try:
            return super().fromtarfile(tar)
        except _NO_HEADER as error:
            return cls._next_one(tar, start, None if isinstance(error, tarfile.EOFHeaderError) else error)  # type: ignore[attr-defined]
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            if start:
                tar.passed.append("it ends without the zeros that close a tar archive: it may have been cut")
            raise
        finally:
            tar.nested = False

    @classmethod
    def _next_one(cls, tar: Any, start: int, error: Exception | None) -> Any:
        """The next header behind ``start``, where none could be read; ``error`` is None where there are zeros."""
        reason = f"no tar header at byte {start} where one should be ({error or 'zeros'})"
        zeros = error is None
        while True:
            tar.fileobj.read(-tar.fileobj.tell() % tarfile.BLOCKSIZE)
            block = tar.fileobj.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE and not block.strip(b"\0") and zeros:
                if tar.fileobj.tell() - start > _MOST_ZEROS:
                    tar.passed.append(f"zeros from byte {start} to the end: it may not have been written to its end")
                raise tarfile.EOFHeaderError("end of file header")  # type: ignore[attr-defined]
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"{reason}, and none after it")
            if block[_MAGIC] == b"ustar":
                try:
                    header = cls.frombuf(block, tar.encoding, tar.errors)
                    header.offset = at = tar.fileobj.tell() - tarfile.BLOCKSIZE
                    found = header._proc_member(tar)  # type: ignore[attr-defined]
                except tarfile.HeaderError:
                    zeros = False
                    continue
                if not zeros:
                    tar.passed.append(f"{reason}; what is there up to byte {at} is lost")
                return found
            zeros = zeros and not block.strip(b"\0")

    def _block(self, count: int) -> int:  # of each size that moves on to the next header, a pax header's too
        if count < 0:
            raise tarfile.InvalidHeaderError(f"a size of {count} bytes")  # type: ignore[attr-defined]
        return super()._block(count)  # type: ignore[misc]


class _Tar(tarfile.TarFile):
    """An archive whose headers are :class:`_Header`."""

    tarinfo = _Header

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.passed: list[str] = []
        self.nested = False
        super().__init__(*arguments, **options)


def _members(tar: _Tar, left_out: Counter[str]) -> Iterator[tuple[int, tarfile.TarInfo | str]]:
    """Number and header of each image file of a shard; in place of the header what was passed over before it."""
    number = 0
    while True:
        try:
            member = tar.next()
        except tarfile.ReadError:
            for reason in tar.passed:
                yield number, reason
            raise
        for reason in tar.passed:
            yield number, reason
        tar.passed.clear()
        if member is None:
            return
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
        if not member.isdir() and is_image_name(member.name, left_out):
            yield number, member
        number += 1


def expand_tar(place: str, file: IO[bytes], left_out: Counter[str]) -> Iterator[Input]:
    """The images of an uncompressed shard, each a slice of its file."""
    if file.read(2) == b"\x1f\x8b":
        raise ImageError(place, "is compressed with gzip, whatever its name says: rename it to .tar.gz", "find")
    file.seek(0)
    with _Tar.open(fileobj=file, mode="r:") as tar:
        for _, member in _members(tar, left_out):
            if isinstance(member, str):
                yield Input(place, "failed", detail=member)
            elif member.isreg() and not member.issparse():
                yield Input(f"{place}/{member.name}", "slice", place, member.offset_data, member.size)
            else:
                yield Input(f"{place}/{member.name}", "failed", detail=_NO_IMAGE)


def expand_compressed_tar(place: str, file: IO[bytes], left_out: Counter[str], suffix: str) -> Iterator[Input]:
    """The images of a compressed shard, which are read in order."""
    with _compressed(file, suffix) as tar:
        for number, member in _members(tar, left_out):
            if isinstance(member, str):
                yield Input(place, "failed", detail=member)
            elif member.isreg():
                yield Input(f"{place}/{member.name}", "member", place, number)
            else:
                yield Input(f"{place}/{member.name}", "failed", detail=_NO_IMAGE)
        try:
            while tar.fileobj.read(1 << 20):  # up to the checksum, which is last
                pass
        except Exception as error:
            if is_damage(error):
                yield Input(place, "failed", detail=f"broken or cut, one of its files or what is behind them: {describe(error)}")


class _Unclosed:
    """A file for Arrow, which closes what it is given; the caller's file stays open."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        pass


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(_Unclosed(file), mode="r"), "zstd")


# How to open a stream, and to read it without an attempt to fill each request: so what is before a cut is not lost with it.
_STREAMS: dict[str, tuple[Callable[[IO[bytes]], Any], Callable[[Any, int], bytes]]] = {
    "gz": (lambda file: gzip.GzipFile(fileobj=file, mode="rb"), lambda plain, count: plain.read1(count)),
    "bz2": (bz2.BZ2File, lambda plain, count: plain.read1(count)),
    "xz": (lzma.LZMAFile, lambda plain, count: plain.read1(count)),
    "zst": (_zstd, lambda plain, count: plain.read(min(count, tarfile.BLOCKSIZE))),
}
COMPRESSED_TARS = {
    **{f".tar.{name}": name for name in _STREAMS},
    ".tgz": "gz", ".tbz2": "bz2", ".tbz": "bz2", ".txz": "xz", ".tzst": "zst",
}  # fmt: skip


class _Stream:
    def __init__(self, plain: Any, read: Callable[[Any, int], bytes]) -> None:
        self.read = lambda count: read(plain, count)


@contextmanager
def _compressed(file: IO[bytes], suffix: str) -> Iterator[_Tar]:
    opened, read = _STREAMS[COMPRESSED_TARS[suffix]]
    with opened(file) as plain:
        stream: Any = _Stream(plain, read)
        with _Tar.open(fileobj=stream, mode="r|") as tar:
            yield tar


class MemberReader:
    """The images of a compressed shard by their number, in one pass as long as the numbers grow.

    Args:
        file: the shard, at its beginning; stays the caller's.
    """

    def __init__(self, file: IO[bytes], suffix: str) -> None:
        self._file, self._suffix = file, suffix
        self._start()

    def _start(self) -> None:
        self._items, self._next = self._contents(), 0
        self._damage: Exception | None = None

    def read(self, number: int) -> bytes:
        """Its bytes.

        Raises:
            ImageError: it is too large. Whatever the archive's bytes lead to: behind a fault in them nothing can be read.
        """
        if number < self._next:
            self._file.seek(0)
            self._start()
        if self._damage is not None:
            raise self._damage
        try:
            for at, content in self._items:
                self._next = at + 1
                if at == number:
                    return content()
            raise EOFError("it ends before this")
        except ImageError:
            raise
        except Exception as error:
            self._damage = error
            raise

    def _contents(self) -> Iterator[tuple[int, Callable[[], bytes]]]:
        with _compressed(self._file, self._suffix) as tar:
            for number, member in _members(tar, Counter()):
                if isinstance(member, str):
                    continue

                def content(member: tarfile.TarInfo = member) -> bytes:
                    _check_size(member.name, member.size)
                    extracted = tar.extractfile(member)
                    found = extracted.read() if extracted else b""
                    if len(found) != member.size:
                        raise EOFError("the archive ends within this file")
                    return found

                yield number, content


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(name, f"{size} bytes; expected at most {MAX_BYTES}", "read")


# -- zip ---------------------------------------------------------------------------------------------------------------------------


def _open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise zipfile.BadZipFile(
            f"{error}; the list of its files is at the end of a zip archive, 'zip -FF' may repair it"
        ) from error


def expand_zip(place: str, file: IO[bytes], left_out: Counter[str]) -> Iterator[Input]:
    """The images of a zip archive, each to be read alone."""
    with _open_zip(file) as archive:
        for number, member in enumerate(archive.infolist()):
            if member.is_dir() or not is_image_name(member.filename, left_out):
                continue
            name = f"{place}/{member.filename}"
            if member.flag_bits & 1:
                yield Input(name, "failed", detail="is encrypted; unpack the archive with its password first")
            else:
                yield Input(name, "member", place, number)


class ZipReader:
    """The images of a zip archive by their number; what is wrong with one is no other's.

    Args:
        file: the archive; stays the caller's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = _open_zip(file)
        self._members = self._archive.infolist()

    def read(self, number: int) -> bytes:
        """Its bytes.

        Raises:
            ImageError: it is damaged, too large, or compressed in a way that Python cannot undo.
        """
        if number >= len(self._members):
            raise EOFError("it ends before this")
        member = self._members[number]
        _check_size(member.filename, member.file_size)
        try:
            return self._archive.read(member)
        except Exception as error:
            # The others: an encryption or compression that Python cannot undo, and numbers that contradict each other.
            if not is_damage(error) and not isinstance(error, (NotImplementedError, RuntimeError, ValueError)):
                raise
            raise ImageError(member.filename, f"is damaged in its archive: {utf8(str(error))}", "read") from error
