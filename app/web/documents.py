"""Markdown as pages: the guides of this project, and models' cards."""

import re
import stat
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flask import url_for

from app.config.setting_types import PROJECT_ROOT
from app.errors import ResourceNotFoundError
from app.processes.plain_files import read_plain_text
from app.repository.model_folder import CARD_FILE, ModelFolder

if TYPE_CHECKING:
    from markdown_it.token import Token

OTHERS = {
    "clients": "get_started/clients/README.md",
    "model_folder": "models/README.md",
    "deploy": "deploy/README.md",
    "upgrade": "deploy/upgrade.md",
    "growing": "deploy/growing.md",
    "capacity": "benchmarks/capacity.md",
    "benchmarks": "benchmarks/README.md",
}
"""Guides that stand elsewhere than at the top of `get_started/`."""
ELSEWHERE = re.compile(r"https?://|mailto:")
LARGEST_CARD_BYTES = 32 * 1024
"""At worst such a card takes about a second of CPU, as a table of thousands of columns; it is rendered once."""


class Guide(NamedTuple):
    """A guide as HTML; the title is that of its first heading."""

    name: str
    title: str
    html: str


@cache
def find_guides() -> dict[str, Path]:
    """Return the guides by the name in their address: the index first, then in its order."""
    folder = PROJECT_ROOT / "get_started"
    index = folder / "README.md"
    own = {path.stem: path for path in sorted(folder.glob("*.md"))}
    others = {name: PROJECT_ROOT / file for name, file in OTHERS.items()}
    found = own | {name: path for name, path in others.items() if path.is_file()}
    links = re.findall(r"\]\(([^)#]+)", read_plain_text(index)) if index.is_file() else []
    order = [index, *((folder / link).resolve() for link in links)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[1]) if item[1] in order else len(order)))


@lru_cache(maxsize=256)
def read_guide(name: str, root: str) -> Guide:
    """Render a guide; `root` is the path of all guides. Raises `ResourceNotFoundError`."""
    path = find_guides().get(name)
    if path is None:
        raise ResourceNotFoundError("There is no such guide.")
    text = read_plain_text(path)
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    title = re.sub(r"[`*]", "", heading[1]) if heading else name
    return Guide(name, title, render_markdown(text, path, root))


def list_guides(root: str) -> list[Guide]:
    """Return all guides; `root` as in `read_guide`."""
    return [read_guide(name, root) for name in find_guides()]


def render_card(folder: ModelFolder) -> str:
    """Render a model's card without its title; empty where there is none that can be read."""
    path = folder.path / CARD_FILE
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):  # a link may lead to what is nobody's business
            return ""
        return read_card(path, (status.st_mtime_ns, status.st_size), url_for("pages.show_guides"))
    except (OSError, UnicodeDecodeError):
        return ""


@lru_cache(maxsize=64)
def read_card(path: Path, state: tuple[int, int], root: str) -> str:
    """Render the card of a file; `state` is when it was changed and its size in bytes. Raises as `read_plain_text`."""
    if state[1] > LARGEST_CARD_BYTES:
        return ""
    return render_markdown(re.sub(r"\A\s*# .*", "", read_plain_text(path)), path, root, deeper=1)


def render_markdown(text: str, source: Path, root: str, deeper: int = 0) -> str:
    """Render Markdown in which HTML counts as text. Links lead to guides, or to other sites; others become text.

    `source` is the file, from which relative links are read; its headings go `deeper` by so many levels.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(drop_comments(text))
    for place, token in enumerate(tokens):
        token.attrs.pop("style", None)  # of aligned columns: the pages' policy takes no styles in attributes
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + deeper)}"
        if token.type == "heading_open":
            token.attrs["id"] = make_anchor(tokens[place + 1].content)
        if token.children:
            token.children = [mend_link(child, source, root) for child in token.children]
    html = str(markdown.renderer.render(tokens, markdown.options, {}))
    html = html.replace("<pre>", '<pre tabindex="0">')  # what scrolls must be reached by keyboard
    html = html.replace("<table>", '<div class="scroll" role="group" aria-label="Table" tabindex="0"><table>')
    return html.replace("</table>", "</table></div>")


def drop_comments(text: str) -> str:
    """Leave out HTML comments; one that does not end is text. Takes time in proportion to the text."""
    kept, place = [], 0
    while (start := text.find("<!--", place)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[place:start])
        place = end + len("-->")
    return "".join([*kept, text[place:]])


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading, so that links in the files lead to the same place."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def mend_link(token: "Token", source: Path, root: str) -> "Token":
    """Return a part of a line whose link leads somewhere from a page; a picture becomes its description."""
    if token.type == "image":
        token.type, token.content = "text", token.content or "picture"
    if token.type != "link_open":
        return token
    href = str(token.attrs.pop("href", ""))
    if ELSEWHERE.match(href):
        token.attrs |= {"href": href, "rel": "noreferrer"}
    elif href.startswith("#"):
        token.attrs["href"] = href
    else:
        file, _, anchor = href.partition("#")
        target = (source.parent / file).resolve()
        name = next((name for name, path in find_guides().items() if path == target), None)
        if name is not None:
            token.attrs["href"] = f"{root}/{name}" + (f"#{anchor}" if anchor else "")
    return token
