"""XMP packets: the keywords in them, and which of those a model gave.

Keywords stand in ``dc:subject``, and with the levels above them, ``animals|dog``, in ``lr:hierarchicalSubject``. What gpuannot
wrote of them is listed in a namespace of its own::

    <gpuannot:model>SHA-256</gpuannot:model>
    <gpuannot:words>     an rdf:Bag: gpuannot:word and, where the model says, gpuannot:confidence
    <gpuannot:rejected>  words that gpuannot gave and somebody took out of dc:subject: they are not given again
    <gpuannot:embedded>  keywords of the photo itself, copied to dc:subject, so that a sidecar hides none of them

A packet comes from anywhere: one with a document type definition, the door to entities, is refused, and nothing is fetched.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from lxml import etree

from .refusal import Unusable

Element: TypeAlias = etree._Element

RDF, XMP_META = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "adobe:ns:meta/"
DC, LR = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/lightroom/1.0/"
OWN = "urn:gpuannot:words:1#"
SUBJECT, HIERARCHY = f"{{{DC}}}subject", f"{{{LR}}}hierarchicalSubject"
MODEL, WORDS, WORD, CONFIDENCE, REJECTED, EMBEDDED = (
    f"{{{OWN}}}{name}" for name in ("model", "words", "word", "confidence", "rejected", "embedded")
)
LI, BAG, DESCRIPTION, ROOT, ABOUT, PARSE_TYPE = (
    f"{{{RDF}}}{name}" for name in ("li", "Bag", "Description", "RDF", "about", "parseType")
)
LEVELS = "|"  # between the levels of a hierarchical keyword
_CONTAINERS = {BAG, f"{{{RDF}}}Seq", f"{{{RDF}}}Alt"}
_MOST_BYTES = 2**24


@dataclass(frozen=True)
class Marker:
    """What gpuannot has noted of its own words.

    Attributes:
        model: SHA-256 of the model that gave them.
        words: each with its confidence, as it is written.
        rejected: those that somebody took out.
        embedded: keywords of the photo that were copied.
    """

    model: str = ""
    words: dict[str, str | None] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.model or self.words or self.rejected or self.embedded)


@dataclass(frozen=True)
class Keywords:
    """The keywords of an image.

    Attributes:
        flat: as in ``dc:subject`` or IPTC.
        paths: as in ``lr:hierarchicalSubject``.
        machine: of both, those that gpuannot wrote.
    """

    flat: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    machine: frozenset[str] = frozenset()

    def words(self, *, hierarchy: bool = False, machine: bool = False) -> list[str]:
        """The keywords as words.

        Args:
            hierarchy: take ``animals|dog`` for a word, in place of ``dog``.
            machine: also those that gpuannot wrote.
        """
        left_out = frozenset() if machine else self.machine
        flat, paths = ([word for word in words if word not in left_out] for words in (self.flat, self.paths))
        if hierarchy:
            levels = {level for path in paths for level in path.split(LEVELS)}
            flat = [word for word in flat if word not in levels]
        return [word for word in dict.fromkeys([*flat, *(paths if hierarchy else map(leaf, paths))]) if word]


class Packet:
    """An XMP packet.

    Args:
        content: of a sidecar, or as it is embedded in an image.

    Raises:
        Unusable: it is no XML, has a document type definition, or is no XMP.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) > _MOST_BYTES:
            raise Unusable(f"its XMP has {len(content)} bytes; expected at most {_MOST_BYTES}", "read")
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False)
        try:
            wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # UTF-16, in which zeros are no padding
            root = etree.fromstring(content if wide else content.strip(b"\0 \t\r\n"), parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise Unusable(f"its XMP is broken XML: {str(error).splitlines()[0]}", "read") from error
        self.tree = root.getroottree()
        if self.tree.docinfo.doctype:
            raise Unusable("its XMP has a document type definition, which XMP does not allow", "read")
        rdf = root if root.tag == ROOT else root.find(ROOT)
        if rdf is None or (root is not rdf and etree.QName(root).namespace != XMP_META):
            raise Unusable(f"its XML is no XMP: it begins with <{etree.QName(root).localname}>", "read")
        self.rdf: Element = rdf

    def descriptions(self) -> list[Element]:
        """The elements that hold the properties."""
        return self.rdf.findall(DESCRIPTION)

    def elements(self, name: str) -> list[Element]:
        """The elements of a property."""
        return [element for description in self.descriptions() for element in description.findall(name)]

    def values(self, name: str) -> list[str]:
        """The values of a property, however it is written down.

        Raises:
            Unusable: its values are no texts.
        """
        found = [value for description in self.descriptions() if (value := description.get(name))]
        for element in self.elements(name):
            container = container_of(element)
            if container is None and len(element):
                raise Unusable(f"its XMP has a {etree.QName(name).localname} that is no list of words", "read")
            found += [element.text or ""] if container is None else [item.text or "" for item in items_of(container)]
        return [word for value in found if (word := as_word(value))]

    def keywords(self) -> Keywords:
        """The keywords, and which of them gpuannot wrote."""
        paths = self.values(HIERARCHY)
        forms = (form for word in self.marker().words for form in (word, leaf(word) if word in paths else word))
        return Keywords(tuple(self.values(SUBJECT)), tuple(paths), frozenset(forms))

    def marker(self) -> Marker:
        """What gpuannot noted, also where another program has written it anew in a form of its own."""
        words: dict[str, str | None] = {}
        for element in self.elements(WORDS):
            for entry in element.iter():
                word = entry.get(WORD) or entry.findtext(WORD)
                if word:
                    words[as_word(word)] = entry.get(CONFIDENCE) or entry.findtext(CONFIDENCE)
        model = next(iter(self.values(MODEL)), "")
        return Marker(model, words, tuple(self.values(REJECTED)), tuple(self.values(EMBEDDED)))


def container_of(element: Element) -> Element | None:
    """The list within a property."""
    return next((child for child in element if child.tag in _CONTAINERS), None)


def items_of(container: Element) -> Iterator[Element]:
    """The entries of a list."""
    return container.iterchildren(LI)


def as_word(text: str) -> str:
    """A keyword as it is compared: without outer spaces, in Unicode's composed form."""
    return unicodedata.normalize("NFC", text.strip())


def leaf(word: str) -> str:
    """The last level of a hierarchical keyword."""
    return word.rpartition(LEVELS)[2].strip()
