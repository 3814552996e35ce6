"""XMP sidecars: words join the keywords that are there; what is in a file beside them stays as it is.

A word that somebody else wrote is never taken out, nor listed as ours. Words that we wrote are, in the marker of
:mod:`gpuannot.images.xmp`: another run takes out those that it does not give, and :func:`without_words` takes out all. A word of
ours that somebody took out is not given again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from lxml import etree

from ...images.keywords import embedded_keywords
from ...images.refusal import Unusable
from ...images.xmp import (
    ABOUT,
    BAG,
    CONFIDENCE,
    DC,
    DESCRIPTION,
    EMBEDDED,
    HIERARCHY,
    LEVELS,
    LI,
    LR,
    MODEL,
    OWN,
    PARSE_TYPE,
    RDF,
    REJECTED,
    SUBJECT,
    WORD,
    WORDS,
    XMP_META,
    Element,
    Marker,
    Packet,
    as_word,
    container_of,
    items_of,
    leaf,
)
from .tag_file import Change, Tags

_NEW = f'<x:xmpmeta xmlns:x="{XMP_META}" x:xmptk="gpuannot">\n <rdf:RDF xmlns:rdf="{RDF}"/>\n</x:xmpmeta>'.encode()
_PREFIXES = {"rdf": RDF, "dc": DC, "lr": LR, "gpuannot": OWN}


class Sidecar:
    """XMP beside an image.

    Args:
        hierarchy: a word such as ``animals|dog`` has levels: the last is a keyword, the whole a hierarchical one. Otherwise it is a
            keyword with a bar in it, and no hierarchical one, which could not hold it.
    """

    suffix: ClassVar[str] = ".xmp"

    def __init__(self, *, hierarchy: bool = False) -> None:
        self._hierarchy = hierarchy

    def changed(self, there: bytes | None, tags: Tags, image: Path | None) -> Change | None:
        """As :meth:`~gpuannot.jobs.writers.tag_file.TagFile.changed` says."""
        packet = Packet(_NEW if there is None else there)
        old, flat, paths = packet.marker(), packet.values(SUBJECT), packet.values(HIERARCHY)
        embedded = _embedded(image)
        copied = [word for word in old.embedded if word in flat] if old else [] if flat else embedded
        ours = {_standing(word, paths) for word in old.words}
        humans = {*flat, *map(leaf, paths)} - ours - set(old.embedded) | set(embedded)
        taken_out = [word for word in old.words if _standing(word, paths) not in flat]
        rejected = [word for word in dict.fromkeys((*old.rejected, *taken_out)) if self._flat(word) not in flat]
        confidences: Sequence[float | None] = tags.confidences or [None] * len(tags.words)
        words: dict[str, str | None] = {}
        for word, confidence in zip(map(as_word, tags.words), confidences, strict=True):
            if self._flat(word) not in humans and word not in rejected:
                words[word] = None if confidence is None else f"{confidence:.4f}"
        new = Marker(tags.model, words, tuple(rejected), tuple(copied if words else ())) if words or rejected else Marker()
        standing = [self._flat(word) for word in words]
        if old == new and set(standing) <= set(flat) and set(self._paths(new)) <= set(paths):
            return None
        return _change(packet, there, old, new, [*new.embedded, *dict.fromkeys(standing)], self._paths(new))

    def _flat(self, word: str) -> str:
        return leaf(word) if self._hierarchy else word

    def _paths(self, marker: Marker) -> list[str]:
        return [word for word in marker.words if self._hierarchy or LEVELS not in word]


def without_words(there: bytes) -> Change | None:
    """What taking out all that gpuannot wrote does to a sidecar; None where it wrote nothing.

    Raises:
        Unusable: it is broken XML, or no XMP.
    """
    packet = Packet(there)
    marker = packet.marker()
    return _change(packet, there, marker, Marker(), [], []) if marker else None


def _embedded(image: Path | None) -> list[str]:
    """The keywords that somebody wrote into a photo."""
    try:
        return [] if image is None else embedded_keywords(str(image)).words()
    except Unusable:  # damaged metadata costs no image its words
        return []


def _standing(word: str, paths: Sequence[str]) -> str:
    """The keyword that a word of ours became: the last of its levels where it is among the hierarchical ones, else itself."""
    return leaf(word) if word in paths else word


def _change(
    packet: Packet, there: bytes | None, old: Marker, new: Marker, subjects: Sequence[str], paths: Sequence[str]
) -> Change | None:
    """What turns the words of one marker into those of another, which are these keywords."""
    flat, before = packet.values(SUBJECT), packet.values(HIERARCHY)
    ours = [*old.embedded, *dict.fromkeys(_standing(word, before) for word in old.words)]
    _replace(packet, SUBJECT, ours, subjects)
    _replace(packet, HIERARCHY, old.words, paths)
    _note(packet, new)
    added = tuple(word for word in subjects if word not in flat)
    removed = tuple(word for word in ours if word in flat and word not in subjects)
    if len(packet.rdf) == len(packet.descriptions()) and all(map(_is_empty, packet.descriptions())):
        return None if there is None else Change(None, removed=removed)
    declared = there is None or there.removeprefix(b"\xef\xbb\xbf").startswith((b"<?xml", b"\xff\xfe", b"\xfe\xff"))
    return Change(etree.tostring(packet.tree, encoding="UTF-8", xml_declaration=declared) + b"\n", added, removed)


def _is_empty(description: Element) -> bool:
    return not len(description) and not [name for name in description.attrib if name != ABOUT]


# -- elements ---------------------------------------------------------------------------------------------------------------------


def _replace(packet: Packet, name: str, old: Iterable[str], new: Sequence[str]) -> None:
    """Take ``old`` out of a property but for what is ``new`` too, and add the rest of ``new`` at its end."""
    gone = set(old) - set(new)
    for element in packet.elements(name):
        container = container_of(element)
        for item in list(items_of(container)) if container is not None else ():
            if as_word(item.text or "") in gone:
                _remove(item)
        if container is not None and not len(container):
            _remove(element)
    there = packet.values(name)
    missing = [word for word in new if word not in there]
    if missing:
        _add(_list_of(packet, name), missing)


def _list_of(packet: Packet, name: str) -> Element:
    """The list of a property, made where there is none; a single value becomes its first entry."""
    for element in packet.elements(name):
        if (container := container_of(element)) is not None:
            return container
        text = (element.text or "").strip()
        container = _child(element, BAG)
        _add(container, [text] if text else [])
        return container
    values = [description.attrib.pop(name) for description in packet.descriptions() if name in description.attrib]
    container = _child(_child(_description(packet), name), BAG)
    _add(container, map(str, values))
    return container


def _note(packet: Packet, marker: Marker) -> None:
    """Write the marker in place of an older one."""
    for description in packet.descriptions():
        for element in [child for child in description if isinstance(child.tag, str) and child.tag.startswith(f"{{{OWN}}}")]:
            _remove(element)
        for name in [name for name in description.attrib if str(name).startswith(f"{{{OWN}}}")]:
            del description.attrib[name]
        if description.nsmap.get("gpuannot") == OWN and _is_empty(description):
            _remove(description)
    if not marker:
        return
    description = _description(packet)
    _child(description, MODEL).text = _text(marker.model)
    if marker.words:
        container = _child(_child(description, WORDS), BAG)
        for word, confidence in marker.words.items():
            entry = _child(container, LI)
            entry.set(PARSE_TYPE, "Resource")
            _child(entry, WORD).text = _text(word)
            if confidence is not None:
                _child(entry, CONFIDENCE).text = confidence
    for name, words in ((REJECTED, marker.rejected), (EMBEDDED, marker.embedded)):
        if words:
            _add(_child(_child(description, name), BAG), words)


def _description(packet: Packet) -> Element:
    """Where our properties stand: with those of ours that are there, or else in an element of their own."""
    descriptions = packet.descriptions()
    for description in descriptions:
        if description.nsmap.get("gpuannot") == OWN:
            return description
    about = descriptions[0].get(ABOUT, "") if descriptions else ""
    description = etree.SubElement(packet.rdf, DESCRIPTION, {ABOUT: about}, nsmap=_PREFIXES)
    _indent(description)
    return description


def _add(container: Element, words: Iterable[str]) -> None:
    for word in words:
        _child(container, LI).text = _text(word)


def _child(parent: Element, name: str) -> Element:
    child = etree.SubElement(parent, name)
    _indent(child)
    return child


def _text(word: str) -> str:
    try:
        etree.Element("word").text = word
    except ValueError:
        raise Unusable(f"XML cannot hold the word {word!r}", "write") from None
    return word


def _indent(child: Element) -> None:
    """Put an element that was just added on a line of its own."""
    parent = child.getparent()
    assert parent is not None
    depth = sum(1 for _ in child.iterancestors())
    before = child.getprevious()
    if before is None:
        parent.text = "\n" + " " * depth
    else:
        before.tail = "\n" + " " * depth
    child.tail = "\n" + " " * (depth - 1)


def _remove(element: Element) -> None:
    """Take an element out; the white space behind the last of several goes behind the one before."""
    parent, before = element.getparent(), element.getprevious()
    assert parent is not None
    if element.getnext() is None:
        if before is not None:
            before.tail = element.tail
        else:
            parent.text = None
    parent.remove(element)
