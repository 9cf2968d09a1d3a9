"""A page of HTML as a reader sees it: links, and pieces of text between them.

Rules: no tree is built, so that depth costs nothing; text is fed as it comes, in small pieces, so
that nobody waits while a page is read; classes and nesting mean nothing, because they change with
every design. What is kept at any moment has a limit, and what is beyond it is PageFailed.
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final

# Of one piece of text more than this is not kept: the longest description has 500 characters.
TEXT_CHARACTERS_MAX: Final = 2_000
# A tag, comment or script may be so long: what is not yet read is looked at again with each piece.
PENDING_CHARACTERS_MAX: Final = 262_144

# These do not end a piece of text.
_INLINE: Final = frozenset({"b", "i", "em", "strong", "code", "mark", "small", "u", "wbr", "sub"})
# What is within is no text that people read.
_HIDDEN: Final = frozenset({"script", "style", "svg", "noscript", "template", "nav", "footer"})
# What stands in one of these belongs together.
_BOXES: Final = frozenset({"li", "article"})
_ENDS: Final = frozenset({"main", "body", "html"})


class PageFailed(Exception):
    """The page is not what it should be."""


class PageText(HTMLParser):
    """Feeds what it finds to its own `on_…` methods, which a reader of one kind of page fills."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._text: list[str] = []
        self._text_characters = 0
        self._hidden = ""
        self._hidden_depth = 0
        self._depth = 0  # boxes that are open
        self._link_depth = 0  # and that were at the last link
        self._opened = False
        self._closed = False

    def on_link(self, href: str) -> None:
        """A link begins: the address it leads to, as written."""

    def on_text(self, text: str) -> None:
        """A piece of text between two tags, of printable characters and single spaces."""

    def on_title(self, title: str) -> None:
        """What a pointer would show."""

    def on_more(self, address: str) -> None:
        """Where the page says that it gets more from."""

    def on_end(self) -> None:
        """What follows does not belong to what came before."""

    def take(self, text: str) -> None:
        """The next piece of the page. Raises PageFailed."""
        try:
            self.feed(text)
        except (AssertionError, ValueError, RecursionError) as error:  # of odd declarations
            raise PageFailed(f"its HTML cannot be read: {error}") from error
        if len(self.rawdata) > PENDING_CHARACTERS_MAX:
            raise PageFailed(f"a tag or text in it is over {PENDING_CHARACTERS_MAX} characters")

    def finish(self) -> None:
        """The page is over. Raises PageFailed if it was cut off."""
        self._flush()
        self.on_end()
        if self._hidden:
            raise PageFailed(f"its <{self._hidden}> has no end, and hides what follows")
        if "<" in self.rawdata or (self._opened and not self._closed):
            raise PageFailed("it is cut off before its end")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _INLINE:
            self._flush()
        if self._hidden:
            self._hidden_depth += tag == self._hidden
            return
        if tag in _HIDDEN:
            self._hidden, self._hidden_depth = tag, 1
            return
        self._opened = self._opened or tag == "html"
        if tag in _BOXES:
            self._depth += 1
        elif tag == "tr":  # rows have no end in many pages
            self.on_end()
        self._tell(tag, dict(reversed(attrs)))  # of two the first counts, as in browsers

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _HIDDEN:
            self.handle_starttag(tag, attrs)

    def _tell(self, tag: str, given: dict[str, str | None]) -> None:
        href, title = given.get("href"), given.get("title")
        more = given.get("hx-get") or (href if given.get("rel") == "next" else None)
        if more:
            self.on_more(more)
        elif tag == "a" and href:
            self._link_depth = self._depth
            self.on_link(href)
        if title:
            self.on_title(_printable(title))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self._flush()
        if self._hidden:
            self._hidden_depth -= tag == self._hidden
            if not self._hidden_depth:
                self._hidden = ""
        elif tag in _ENDS:
            self.on_end()
        elif tag in _BOXES and self._depth:
            self._depth -= 1
            if self._depth < self._link_depth:
                self.on_end()
        self._closed = self._closed or tag == "html"

    def handle_data(self, data: str) -> None:
        room = TEXT_CHARACTERS_MAX - self._text_characters
        if not self._hidden and room > 0:
            self._text.append(data[:room])
            self._text_characters += min(len(data), room)

    def _flush(self) -> None:
        text = _printable("".join(self._text))
        self._text.clear()
        self._text_characters = 0
        if text:
            self.on_text(text)


def _printable(text: str) -> str:
    """On one line, without what could steer a terminal or turn the direction of reading."""
    shown = "".join(each if each.isprintable() else " " for each in text[:TEXT_CHARACTERS_MAX])
    return " ".join(shown.split())
