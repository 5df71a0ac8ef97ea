"""Make a small trace from a recorded one: `python trim_trace.py TRACE OUT.json.gz --steps 2`.

Keeps the first `--steps` ProfilerSteps, what they launched on a device, and the metadata. Arrows
between events and long arguments (shapes, call stacks) go.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

DROPPED = ("Call stack", "Input Dims", "Input dims", "Input type", "Module Hierarchy")
ARROWS = ("s", "f", "t")
KEPT = (
    "schemaVersion", "deviceProperties", "distributedInfo", "baseTimeNanoseconds",
    "displayTimeUnit",
)  # fmt: skip


def trimmed(document: dict[str, Any], steps: int) -> dict[str, Any]:
    """The document with its first steps only."""
    events = [e for e in document["traceEvents"] if e.get("ph") not in ARROWS]
    marks = sorted(
        (e["ts"], e["ts"] + e["dur"])
        for e in events
        if str(e.get("name")).startswith("ProfilerStep") and e.get("cat") != "gpu_user_annotation"
    )
    begin, end = (marks[0][0], marks[:steps][-1][1]) if marks else (0, float("inf"))
    launched = {
        e["args"].get("correlation")
        for e in events
        if str(e.get("cat")).endswith("untime") and begin <= e["ts"] < end
    }
    kept = [
        event
        for event in events
        if begin <= event.get("ts", 0) < end
        or _frame(event)
        or event.get("args", {}).get("correlation", 0) in launched
    ]
    for event in kept:
        args = event.get("args", {})
        event["args"] = {key: value for key, value in args.items() if key not in DROPPED}
    return {key: document[key] for key in KEPT if key in document} | {"traceEvents": kept}


def _frame(event: dict[str, Any]) -> bool:
    return event.get("ph") == "M" or event.get("cat") == "Trace"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    content = arguments.source.read_bytes()
    packed = arguments.source.suffix == ".gz"
    document = json.loads(gzip.decompress(content) if packed else content)
    text = json.dumps(trimmed(document, arguments.steps), separators=(",", ":"))
    arguments.target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
