"""The words beside an image in a REST request: which there are, how they may be spelled, and where they stand."""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen
from quart import Request

from loop_node.serving.openapi import Parameter

__all__ = ["CREATION_DATE", "SOURCE", "Word", "parameters"]


@frozen
class Word:
    """A header or query parameter.

    Attributes:
        spellings: In order of preference: the contract's, then the tolerated ones.
        description: For people.
        schema: Its JSON schema.
    """

    spellings: tuple[str, ...]
    description: str
    schema: Mapping[str, Any] = {"type": "string"}

    def read(self, request: Request) -> str | None:
        """The first that is there and not empty: headers before query, in the order of the spellings."""
        for spelling in self.spellings:
            if text := request.headers.get(spelling):
                return _as_sent(text)
        for spelling in self.spellings:
            if text := request.args.get(spelling):
                return text
        return None


SOURCE = Word(("source",), "Where the image comes from.")
CREATION_DATE = Word(("creation-date", "creation_date"), "When the image was taken, as an ISO 8601 date.")


def parameters(words: Iterable[Word]) -> list[Parameter]:
    """How the words are described to clients."""
    return [
        Parameter(name=word.spellings[0], where=where, description=word.description, schema=word.schema)
        for word in words
        for where in ("header", "query")
    ]


def _as_sent(header: str) -> str:
    """HTTP hands headers over as latin-1; most clients write UTF-8 into them."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header
