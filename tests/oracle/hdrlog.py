#!/usr/bin/env python3
"""HDR logs: what the sink writes, decoded with hdrhistogram.

  hdrlog.py --systole PATH [--lines N]
"""
import sys

from hdrh.histogram import HdrHistogram

from readback import run


def start(_, folder, __):
    path = f"{folder}/hdr.log"
    return f'[[sink]]\ntype = "hdrlog"\npath = "{path}"\n', path


def check(path, rows):
    seen = 0
    for line in open(path):
        if line.startswith(("#", '"')):
            continue
        tag, start, length, largest, packed = line.rstrip("\n").split(",")
        histogram = HdrHistogram.decode(packed)
        at = round((float(start) + float(length)) * 1000)
        series = tag.removeprefix("Tag=")
        # White space became `_`: found by what is left.
        keys = [key for key in rows if key[4] == "count" and abs(key[0] - at) <= 2
                and ";".join([key[2]] + [k if (k, v) == ("bare", "") else f"{k}={v}" for k, v in key[3]]).replace(" ", "_") == series]
        for key in keys:
            if histogram.get_total_count() == round(rows[key]):
                # Ranks are cut there and rounded here: with few samples another one may be meant.
                if rows[key] > 200:
                    for p in ("50", "99"):
                        error = histogram.get_value_at_percentile(float(p)) / 1000 / rows[key[:4] + (f"p{p}",)] - 1
                        assert abs(error) < 0.01, (key, p, error)
                assert abs(histogram.get_max_value() / 1000 / rows[key[:4] + ("max",)] - 1) < 0.002
                seen += 1
                break
        else:
            sys.exit(f"HDR log: nothing belongs to {series} at {at}")
    wanted = sum(key[4] == "count" for key in rows)
    assert seen == wanted, (seen, wanted)
    return f"{seen} histograms equal in the HDR log"


if __name__ == "__main__":
    run(__doc__, start, check, unsupported=True)
