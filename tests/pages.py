"""The project's Markdown pages as values: title, anchors, links, code spans, and code blocks with the mark above."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
_OTHERS = ("plans", "prompts", "scripts", "benchmarks")
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_MARK = re.compile(r"<!-- ((?:not )?run:.*?) ?-->")


class Block(NamedTuple):
    """A code block. `kind` is the word after the fence, or "indented"; `mark` is the run-comment directly above it."""

    line: int
    kind: str
    mark: str
    lines: list[str]


class Link(NamedTuple):
    """A link or an image, with the line of the text block that it stands in."""

    line: int
    target: str


@dataclass(frozen=True)
class Page:
    """A Markdown file below `root`."""

    path: Path
    text: str
    root: Path = ROOT

    @property
    def name(self) -> str:
        """The path below the root."""
        return self.path.relative_to(self.root).as_posix()

    @cached_property
    def tokens(self) -> list[Token]:
        """The page as the CommonMark parser sees it."""
        return _MARKDOWN.parse(self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """The code blocks, in order."""
        found: list[Block] = []
        before = ""
        for token in self.tokens:
            if token.type in {"fence", "code_block"}:
                kind = (token.info.split() or [""])[0] if token.type == "fence" else "indented"
                found.append(Block(_line(token), kind, before, token.content.rstrip("\n").split("\n")))
            mark = _MARK.fullmatch(token.content.strip()) if token.type == "html_block" else None
            before = mark[1] if mark else ""
        return found

    @cached_property
    def links(self) -> list[Link]:
        """The links and images, in order."""
        attributes = {"link_open": "href", "image": "src"}
        return [
            Link(line, str(child.attrGet(attributes[child.type])))
            for line, child in self._inline()
            if child.type in attributes
        ]

    @cached_property
    def code(self) -> list[tuple[int, str]]:
        """The code spans of the text, with the line of the text block that they stand in."""
        return [(line, child.content) for line, child in self._inline() if child.type == "code_inline"]

    @cached_property
    def anchors(self) -> set[str]:
        """The names that a link to a place in this page may use, as GitHub makes them from headings."""
        seen: Counter[str] = Counter()
        names: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', self.text))
        for heading in self._after("heading_open"):
            said = "".join(child.content for child in heading.children or [])
            slug = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return names

    @property
    def title(self) -> str:
        """The first heading."""
        return next((heading.content for heading in self._after("heading_open")), self.name)

    @property
    def summary(self) -> str:
        """The first sentence of the first paragraph."""
        first = next((text.content for text in self._after("paragraph_open")), "").replace("\n", " ")
        sentence = re.match(r".+?[.!?](?= |$)", first)
        return sentence[0] if sentence else first

    def _after(self, kind: str) -> list[Token]:
        return [after for token, after in zip(self.tokens, self.tokens[1:], strict=False) if token.type == kind]

    def _inline(self) -> list[tuple[int, Token]]:
        return [(_line(token), child) for token in self.tokens for child in token.children or []]


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1


def read(path: Path) -> Page:
    """Read a page of the project."""
    return Page(path, path.read_text())


def pages() -> list[Page]:
    """Return the documentation: the README, the pages beside it, and everything in docs."""
    beside = sorted(ROOT.glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return [read(path) for path in [*beside, *sorted((ROOT / "docs").rglob("*.md"))]]


def every_page() -> list[Page]:
    """Return the documentation and every other Markdown file of the project: prompts, plans, the sample."""
    others = sorted(path for folder in _OTHERS for path in (ROOT / folder).rglob("*.md"))
    return [*pages(), *(read(path) for path in others)]


def dead_links(page: Page) -> list[str]:
    """Return what is wrong with the links that stay in the project."""
    return [f"{page.name}:{link.line}: {link.target} leads nowhere" for link in page.links if not _leads(page, link)]


def _leads(page: Page, link: Link) -> bool:
    if re.match(r"[a-z][a-z0-9+.-]*:", link.target):
        return True
    path, _, anchor = link.target.partition("#")
    there = (page.path.parent / path).resolve() if path else page.path
    if there == page.path:
        return not anchor or anchor in page.anchors
    if not there.exists() or not there.is_relative_to(page.root):
        return False
    return not anchor or (there.suffix == ".md" and anchor in Page(there, there.read_text(), page.root).anchors)
