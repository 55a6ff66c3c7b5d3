#!/usr/bin/env python3
"""The checklist of a release, in a copy of the repository: it passes where all is well, and names each thing that is not."""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def git(folder, *words):
    author = ["-c", "user.name=Systole", "-c", "user.email=systole@packages.invalid"]
    return subprocess.run(["git", *author, "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()


def replace(path, pattern, by):
    text = path.read_text()
    changed, count = re.subn(pattern, by, text, count=1, flags=re.M)
    if not count:
        sys.exit(f"FAILED: {path.name} has no `{pattern}`")
    path.write_text(changed)


def prepare(folder):
    """As its head says, for a version that nobody has."""
    old = re.search(r'^version = "(.*)"', (folder / "Cargo.toml").read_text(), re.M).group(1)
    replace(folder / "Cargo.toml", r'^version = ".*"', 'version = "987.6.5"')
    replace(folder / "Cargo.lock", r'^name = "systole"\nversion = ".*"', 'name = "systole"\nversion = "987.6.5"')
    replace(folder / "CHANGELOG.md", r"^## .*", "## 987.6.5 (2026-01-31)")
    replace(folder / "packaging/debian/changelog", r"^systole \(.*?\)", "systole (987.6.5-1)")
    for path in (folder / "packaging/kubernetes").iterdir():
        path.write_text(path.read_text().replace(f"image: systole:{old}", "image: systole:987.6.5"))
    replace(folder / "README.md", rf"^systole {re.escape(old)}$", "systole 987.6.5")
    git(folder, "commit", "-qam", "Prepare a release")


def look(folder, *flags):
    done = subprocess.run([folder / "packaging/release", "--look", *flags], capture_output=True, text=True)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("MISSING")]


def main():
    with tempfile.TemporaryDirectory(prefix="systole-release-") as parent:
        folder = pathlib.Path(parent) / "copy"
        git(parent, "clone", "-q", "--no-tags", ROOT, folder)
        code, missing = look(folder, "--tested", "HEAD")
        if code == 0 and "Unreleased" in (folder / "CHANGELOG.md").read_text():
            sys.exit("FAILED: what is unreleased is released")
        prepare(folder)
        good = git(folder, "rev-parse", "HEAD")
        if look(folder, "--tested", good) != (0, []):
            sys.exit(f"FAILED: all is well, but {look(folder, '--tested', good)}")
        planted = {
            "everything is committed": lambda: (folder / "SECURITY.md").write_text("changed"),
            "the tag": lambda: git(folder, "tag", "v987.6.5"),
            "Cargo.lock": lambda: replace(folder / "Cargo.lock", "987.6.5", "0.1.0"),
            "CHANGELOG.md": lambda: replace(folder / "CHANGELOG.md", r"^## .*", "## Unreleased"),
            "packaging/debian/changelog": lambda: replace(folder / "packaging/debian/changelog", "987.6.5", "987.6.4"),
            "the manifests": lambda: replace(folder / "packaging/kubernetes/daemonset.yaml", "systole:987.6.5", "systole:latest"),
            "README.md": lambda: replace(folder / "README.md", "^systole 987.6.5$", "systole 987.6.4"),
            "tests/all": lambda: replace(folder / "src/main.rs", "^fn", "// Not tested.\nfn"),
        }
        for names, plant in planted.items():
            plant()
            if git(folder, "status", "--porcelain") and names != "everything is committed":
                git(folder, "commit", "-qam", "Plant a mistake")
            code, missing = look(folder, "--tested", good)
            # What is not a word is not tested, either.
            others = [line for line in missing if "tests/all and tests/long" not in line or names == "tests/all"]
            if code != 1 or len(others) != 1 or names not in others[0]:
                sys.exit(f"FAILED: {names} is missing, but it says {code}: {missing}")
            git(folder, "reset", "-q", "--hard", good)
            subprocess.run(["git", "-C", folder, "tag", "-d", "v987.6.5"], capture_output=True)
        if look(folder)[0] != 1:
            sys.exit("FAILED: a release that nobody has tested")
    print(f"the checklist names each of {len(planted)} mistakes")


if __name__ == "__main__":
    main()
