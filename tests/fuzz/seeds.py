#!/usr/bin/env python3
"""Seeds of the fuzz targets: the conformance corpora, the example configuration, presence traces. seeds.py FOLDER"""
import glob
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")


def inputs():
    """What the vectors of the parser read."""
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/corpus/parse/*.jsonl"))):
        with open(path) as rows:
            for row in rows:
                vector = json.loads(row)
                text = vector.get("input")
                yield bytes.fromhex(vector["input_hex"]) if text is None else text.encode()


def main():
    folder = sys.argv[1]
    seeds = {"datagram": [], "stream": [], "binary": [], "config": [], "capture": [], "key": [], "grammar": [], "presence": []}
    for data in inputs():
        seeds["datagram"].append(b"\x00\x05" + data)
        seeds["stream"].append(b"\x01\x07" + data + b"\n")
        seeds["stream"].append(b"\x02\x07" + len(data).to_bytes(4, "little") + data)
        if data[:1] == b"\xaa":
            seeds["binary"].append(data[1:])
            seeds["datagram"].append(b"\x10\x05" + data)
    seeds["key"] += [bytes([way, kind]) + data for way in (0, 2) for kind in range(4) for data in (b"k:" + b"\xff" * 21845, b"a" * 65000)]
    seeds["key"] += [bytes([1, kind]) + bytes(range(256)) for kind in range(4)]
    for target in ("grammar", "presence"):
        seeds[target] += [bytes((n * step) % 256 for n in range(300)) for step in range(1, 40)]
    with open(os.path.join(ROOT, "examples/systole.toml")) as example:
        text = example.read()
    seeds["config"].append(text.encode())
    # Section by section, with the examples.
    whole = "\n".join(line[1:] if line.startswith("#") and line[1:2].strip() else line for line in text.splitlines())
    seeds["config"] += [("[" + part).encode() for part in whole.split("\n[")[1:]] + [whole.split("\n[")[0].encode()]
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/corpus/presence/*.jsonl"))):
        with open(path) as rows:
            seeds["capture"] += [row.encode() for row in list(rows)[:40]]
    for target, all_of_it in seeds.items():
        os.makedirs(os.path.join(folder, target), exist_ok=True)
        for n, data in enumerate(all_of_it):
            with open(os.path.join(folder, target, f"{n:05}"), "wb") as out:
                out.write(data)


if __name__ == "__main__":
    main()
