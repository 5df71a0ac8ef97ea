"""The user's own functions among the Python calls of a trace (`with_stack=True`).

Since torch 1.13 every call of a Python function is an event, `train.py(12): step`, with the line
where the function begins. Before, operators carry the text of their stack, with the line that
called. The profiler leaves out the folder of what is on the module path: a library's file is told
by the package that its path begins with.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Final, NamedTuple

from stepscope.advisor.traces.reader import Event

_FRAME = re.compile(r"(?P<file>[^<].*?)\((?P<line>\d+)\): (?P<function>.+)", re.DOTALL)
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d[.\d]*[/\\]", re.I)
_ABSOLUTE = re.compile(r"[/\\]|\w:")
_PACKAGES = """
    IPython PIL accelerate albumentations apex av click composer cv2 datasets deepspeed einops
    fairscale fsspec functorch huggingface_hub hydra ignite imageio ipykernel joblib jsonargparse
    kornia librosa lightning lightning_fabric megatron mlflow monai numpy omegaconf pandas peft
    pyarrow pytorch_lightning safetensors scipy sentencepiece skimage sklearn soundfile stepscope
    streaming tensorboard timm tokenizers torch torch_geometric torchaudio torchdata torchmetrics
    torchtext torchvision tqdm transformer_engine transformers triton trl typer wandb webdataset
    xformers
"""
"""Packages whose code nobody who trains a model has written: a new one is a word here."""
_LIBRARIES: Final = sys.stdlib_module_names | frozenset(_PACKAGES.split())


class Frame(NamedTuple):
    """A function of the user's, and where it stands."""

    file: str
    line: int
    function: str


@lru_cache(maxsize=1 << 16)
def frame_of(name: str) -> Frame | None:
    """The function that an event of this name has called; None for a library's, or built-in."""
    found = _FRAME.fullmatch(name)
    if found is None or not _is_users(found["file"]):
        return None
    return Frame(found["file"], int(found["line"]), found["function"])


def _is_users(file: str) -> bool:
    if _ABSOLUTE.match(file):
        return not _INSTALLED.search(file)
    package = re.split(r"[/\\]", file, maxsplit=1)[0].removesuffix(".py")
    return package not in _LIBRARIES


def users_calls(calls: list[Event]) -> list[Event]:
    """Calls of the user's own functions; all others, which are most, are told at once."""
    return [call for call in calls if call.name[:1] != "<" and frame_of(call.name)]


def called_from(operators: list[Event]) -> list[Event]:
    """Operators that carry their stack as text, as calls of the user's innermost function."""
    return [
        Event(cat="python_function", name=frame, tid=event.tid, ts=event.ts, dur=event.dur)
        for event in operators
        if event.args and event.args.call_stack and (frame := _innermost(event.args.call_stack))
    ]


@lru_cache(maxsize=1 << 12)
def _innermost(stack: str) -> str | None:
    """Of frames from the inside out."""
    return next((frame for frame in stack.split(";") if frame_of(frame)), None)
