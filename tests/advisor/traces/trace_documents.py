"""Small traces, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


def host(
    name: str, start: float, length: float, cat: str = "cpu_op", **args: Any
) -> dict[str, Any]:
    """An event of the training thread; microseconds."""
    return {
        "ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": start, "dur": length,
        "args": args,
    }  # fmt: skip


def launch(number: int, start: float, length: float = 5) -> dict[str, Any]:
    """A call that launches the work of the same number."""
    return host("cudaLaunchKernel", start, length, "cuda_runtime", correlation=number)


def work(
    name: str, number: int, start: float, length: float, cat: str = "kernel", stream: int = 7
) -> dict[str, Any]:
    """Something on device 0."""
    return {
        "ph": "X", "cat": cat, "name": name, "pid": 0, "tid": stream, "ts": start, "dur": length,
        "args": {"device": 0, "stream": stream, "correlation": number},
    }  # fmt: skip


def step(number: int, start: float, length: float) -> dict[str, Any]:
    """The mark of a step."""
    return host(f"ProfilerStep#{number}", start, length, "user_annotation")


def document(events: list[dict[str, Any]], **metadata: Any) -> dict[str, Any]:
    """A trace with these events."""
    return {"schemaVersion": 1, **metadata, "traceEvents": events}


def write(path: Path, content: Any, **style: Any) -> Path:
    """Write a document as JSON."""
    path.write_text(json.dumps(content, **style), encoding="utf-8")
    return path
