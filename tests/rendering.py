"""What a browser would do with a Markdown text, after real renderers: what it would fetch, open or run."""

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt

_ELEMENTS = set(
    "p a img em strong code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 hr br table thead tbody tr th td s".split()
)
_PLAIN = {"class", "alt", "title", "start", "align"}


class _Trusting(MarkdownIt):
    """A renderer that trusts what it is given: HTML is passed on, every scheme may be linked to."""

    def validateLink(self, url: str) -> bool:  # noqa: N802
        return True


_RENDERERS = [
    _Trusting("commonmark", {"html": True}),
    _Trusting("js-default", {"html": True, "typographer": True}),
]


class _Page(HTMLParser):
    def __init__(self, hosts: set[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.hosts = hosts
        self.dangers: list[str] = []
        self.followed: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _ELEMENTS:
            self.dangers.append(f"<{tag}>")
        for name, value in attrs:
            self._attribute(tag, name, value or "")

    def _attribute(self, tag: str, name: str, value: str) -> None:
        address = re.fullmatch(r"https://([a-z0-9.-]+)(?::443)?([/?#].*)?", value, re.IGNORECASE | re.DOTALL)
        listed = address is not None and address[1].lower() in self.hosts
        letter = tag == "a" and re.fullmatch(r"mailto:[^?]*", value) is not None
        if (tag, name) in (("a", "href"), ("img", "src")) and (listed or letter):
            self.followed.append(value)
        elif name not in _PLAIN and not (tag in ("td", "th") and name == "style"):
            self.dangers.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_comment(self, data: str) -> None:
        self.dangers.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.dangers.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.dangers.append(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self.dangers.append(f"<![{data}]>")


def pages(text: str, hosts: set[str]) -> list[_Page]:
    """Return the text as each renderer shows it."""
    found = []
    for renderer in _RENDERERS:
        page = _Page(hosts)
        page.feed(renderer.render(text))
        page.close()
        found.append(page)
    return found


def dangers(text: str, hosts: set[str]) -> list[str]:
    """Return whatever leads elsewhere than to ``hosts``, or could run, in any renderer."""
    return [danger for page in pages(text, hosts) for danger in page.dangers]


def followed(text: str, hosts: set[str]) -> list[str]:
    """Return the addresses that the first renderer makes links and images of."""
    return pages(text, hosts)[0].followed


_LINKS = re.compile(
    r"(?:https?|ftp)://|(?<![A-Za-z])www\.(?=[\w-])|(?:mailto|xmpp|javascript|vbscript):(?=\w)|(?<![/:])//(?=[\w-])",
    re.IGNORECASE,
)


def plain_links(text: str, hosts: set[str]) -> list[str]:
    """Return what programs that make links of plain text would find (GFM 6.9, linkify), but for listed addresses.

    Code is left out where the renderer says that it is code.
    """
    names = "|".join(map(re.escape, hosts))
    listed = re.compile(rf"https://(?:{names})(?=$|[/?#\s]|\W+(?:\s|$))\S*", re.IGNORECASE)
    found = []
    for token in _RENDERERS[0].parse(text):
        for part in token.children or ():
            if part.type == "text":
                found += _LINKS.findall(listed.sub("", part.content))
    return found
