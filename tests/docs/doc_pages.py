"""README and the pages under docs/, cut into what a reader copies: commands, Python blocks, recipes, links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]

PLACEHOLDERS = ("RUN", "RUN_B", "DATASET", "SOURCE", "PATH", "FILE", "FOLDER", "DEST", "NAME")
"""Words in capitals that a reader replaces; a test replaces them as well."""

PROGRAMS = ("jepawm", "python", "ray", "make", "mlflow", "pip")
"""First words of inline code that are commands."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page, relative to the repository.
        line: Line of its first row of text.
        language: What stands after the fence.
        text: What is inside.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        page: The page, relative to the repository.
        line: Its line there.
        words: The command, split as a shell splits it, comments left out.
        is_name: A sentence names the command, or one of its flags (`jepawm data convert --from`), without arguments.
    """

    page: str
    line: int
    words: tuple[str, ...]
    is_name: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}:{' '.join(self.words)}"


def blocks(language: str, pages: list[Path] | None = None) -> list[Block]:
    """The fenced blocks of a language, in the order of the pages."""
    found = []
    for page in PAGES if pages is None else pages:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1)) + 1
            found.append(Block(str(page.relative_to(REPO)), line, language, match[1]))
    return found


def commands() -> list[Command]:
    """Every command: the lines of shell blocks, and the inline code that begins with a program's name."""
    found = []
    for block in blocks("bash"):
        joined = block.text.replace("\\\n", "  ")
        for offset, line in enumerate(joined.splitlines()):
            words = tuple(shlex.split(line, comments=True))
            if words:
                found.append(Command(block.page, block.line + offset, words))
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.S | re.M)
        for match in re.finditer(r"`([^`]+)`", prose):
            words = tuple(word for word in shlex.split(match[1].replace("\n", " ")) if word != "...")
            if words and words[0] in PROGRAMS:
                line = prose.count("\n", 0, match.start()) + 1
                is_name = re.fullmatch(r"[a-z]+( [a-z]+)*( --[a-z-]+)?", " ".join(words)) is not None
                found.append(Command(str(page.relative_to(REPO)), line, words, is_name))
    return found


def saved_files() -> dict[str, str]:
    """Files that a page asks its reader to save: the Python block that follows "Save it as `NAME.py`"."""
    pattern = r"Save (?:it|this) as `(\w+\.py)`[^`]*?```python\n(.*?)^```"
    found = {}
    for page in PAGES:
        found.update(re.findall(pattern, page.read_text(), flags=re.DOTALL | re.MULTILINE))
    return found


def links() -> list[tuple[str, str]]:
    """Page and target of every relative link and picture."""
    found = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" not in target:
                found.append((str(page.relative_to(REPO)), target))
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}
