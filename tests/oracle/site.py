"""The documentation as a site: builds it with mdBook, and checks that every link and picture leads to something that is there.

    site.py build [FOLDER]      into target/book unless a folder is given
    site.py preprocess …        what mdBook calls while it builds (book.toml)

Pages link to files of the repository beside `docs`: the README, examples, units. The site has copies of them below `files/`, so
that it is whole by itself; a Markdown file among them is a page. What a link leads to outside of the site is not asked.
"""
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^\s*```")


def relinked(text, path):
    """The Markdown of a page at `path` below docs, with its links to files outside of docs leading to their copies."""
    folder = os.path.dirname(os.path.join("docs", path))
    up = "../" * path.count("/")

    def relink(match):
        target, _, heading = match[2].partition("#")
        if "://" in target or not target:
            return match[0]
        file = os.path.normpath(os.path.join(folder, target))
        if file.startswith("docs/") or not os.path.exists(os.path.join(ROOT, file)):
            return match[0]
        page = PAGES.get(file)
        there = f"{up}{page}" if page else f"{up}files/{file}"
        return f"{match[1]}{there}{'#' + heading if heading else ''}{match[3]}"

    lines, is_code = [], False
    for line in text.split("\n"):
        is_code ^= bool(FENCE.match(line))
        lines.append(line if is_code else LINK.sub(relink, line))
    return "\n".join(lines)


# Markdown beside docs that becomes pages, and their titles.
PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "reporting.md", "CHANGELOG.md": "changelog.md",
         "benches/README.md": "benches.md"}
TITLES = {"README.md": "The README", "CONTRIBUTING.md": "Contributing", "SECURITY.md": "Reporting a vulnerability",
          "CHANGELOG.md": "What has changed", "benches/README.md": "The benches"}


def from_outside(file):
    """The Markdown of a file beside docs, as a page of the top folder."""
    with open(os.path.join(ROOT, file)) as text:
        document = text.read()
    folder = os.path.dirname(file)

    def relink(match):
        target, _, heading = match[2].partition("#")
        if "://" in target or not target:
            return match[0]
        path = os.path.normpath(os.path.join(folder, target))
        if path.startswith("docs/"):
            there = path.removeprefix("docs/")
        else:
            there = PAGES.get(path, f"files/{path}")
        return f"{match[1]}{there}{'#' + heading if heading else ''}{match[3]}"

    lines, is_code = [], False
    for line in document.split("\n"):
        is_code ^= bool(FENCE.match(line))
        lines.append(line if is_code else LINK.sub(relink, line))
    return "\n".join(lines)


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def preprocess():
    _, book = json.load(sys.stdin)
    items = book.get("items") or book["sections"]
    for chapter in chapters(items):
        if chapter["path"]:
            chapter["content"] = relinked(chapter["content"], chapter["path"])
    items.append({"PartTitle": "The project"})
    for file, page in PAGES.items():
        items.append({"Chapter": {"name": TITLES[file], "content": from_outside(file), "number": None, "sub_items": [], "path": page,
                                  "source_path": page, "parent_names": []}})
    json.dump(book, sys.stdout)


class Page(html.parser.HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update(value for key, value in attributes.items() if key in ("id", "name") and value)
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def build(folder):
    if not shutil.which("mdbook"):
        sys.exit("mdbook is needed: cargo install --locked mdbook")
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(["mdbook", "build", "--dest-dir", folder, ROOT], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != 0 or " WARN" in said or "ERROR" in said:
        sys.exit(said)
    pages, broken, copied = {}, [], set()
    for at, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".html"):
                path = os.path.join(at, name)
                with open(path) as text:
                    pages[path] = Page(text.read())
    links = 0
    for path, page in sorted(pages.items()):
        # Not a page of ours, and served for any path; the list of chapters is part of others, and the print page is all of them.
        if os.path.basename(path) in ("404.html", "toc.html", "print.html"):
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            links += 1
            target, _, heading = urllib.parse.unquote(link).partition("#")
            file = os.path.normpath(os.path.join(os.path.dirname(path), target)) if target else path
            below = os.path.relpath(file, folder)
            if below.startswith("files/") and not os.path.exists(file):
                copy(below.removeprefix("files/"), file)
                copied.add(below)
            is_there = os.path.exists(file) and (not heading or file not in pages or heading in pages[file].ids)
            if not is_there:
                broken.append(f"{os.path.relpath(path, folder)}: {link}")
    for page in PAGES.values():
        if os.path.join(folder, page.replace(".md", ".html")) not in pages:
            broken.append(f"no page {page}")
    if broken:
        sys.exit("\n".join(broken))
    if len(pages) < 40 or links < 1000:
        sys.exit(f"only {len(pages)} pages with {links} links were found")
    print(f"{len(pages)} pages, {links} links within the site, {len(copied)} files beside them: nothing is broken")


def copy(file, to):
    source = os.path.join(ROOT, file)
    if os.path.isdir(source):
        shutil.copytree(source, to)
        with open(os.path.join(to, "index.html"), "w") as out:
            names = sorted(os.listdir(source))
            out.write("<!doctype html><title>%s</title><ul>%s</ul>\n" % (file, "".join(f'<li><a href="{n}">{n}</a>' for n in names)))
    elif os.path.exists(source):
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copyfile(source, to)


if __name__ == "__main__":
    if sys.argv[1:2] == ["preprocess"]:
        if sys.argv[2:3] == ["supports"]:
            sys.exit(sys.argv[3] != "html")
        preprocess()
    elif sys.argv[1:2] == ["build"]:
        build(os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(ROOT, "target/book")))
    else:
        sys.exit(__doc__)
