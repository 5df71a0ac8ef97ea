from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import record, run_steps

from stepscope.profiler import machine
from stepscope.profiler.format import Compilation, Profile


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo's books are empty, and every size of a tensor is compiled for itself."""
    monkeypatch.setattr(machine, "calibrate", lambda: None)
    import torch._dynamo  # noqa: PLC0415

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def in_three_parts(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    torch._dynamo.graph_break()
    y = y + 1
    if y.sum() > 0:
        y = y * 2
    return y


def in_a_loop(x: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        x = torch.relu(x)
        if x.sum() > 0:
            x = x * 2
    return x


def whole(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x * factor


def recorded(tmp_path: Path, step: Callable[[int], Any], steps: int = 3) -> Profile:
    numbers = iter(range(steps))
    return record(
        tmp_path / "p.json",
        lambda prof: run_steps(prof, lambda: step(next(numbers)), steps),
        warmup_steps=1,
    )


def of(profile: Profile) -> Compilation:
    assert profile.compilation is not None
    return profile.compilation


def test_breaks_of_the_graph_are_told_with_their_place_and_reason(tmp_path: Path) -> None:
    compiled = torch.compile(in_three_parts, backend="eager")
    profile = recorded(tmp_path, lambda _: compiled(torch.ones(2)))

    first = inspect.getsourcelines(in_three_parts)[1]
    breaks = sorted(of(profile).graph_breaks, key=lambda each: each.line)
    assert [(Path(b.file).name, b.line - first) for b in breaks] == [
        ("test_dynamo.py", 2),
        ("test_dynamo.py", 4),
    ]
    assert all(each.reason and "\n" not in each.reason for each in breaks)
    assert profile.configuration.graph_breaks == 2
    assert of(profile).recompiled == []


@pytest.mark.skipif(torch.__version__ < "2.4", reason="PyTorch does not tell")
def test_a_function_that_is_not_compiled_at_all_is_told(tmp_path: Path) -> None:
    compiled = torch.compile(in_a_loop, backend="eager")
    profile = recorded(tmp_path, lambda _: compiled(torch.ones(2)))

    (place,) = of(profile).graph_breaks
    assert place.line == inspect.getsourcelines(in_a_loop)[1] + 3
    assert place.uncompiled
    assert profile.configuration.graph_breaks == 1


def test_what_is_compiled_again_is_told_with_the_guard_that_failed(tmp_path: Path) -> None:
    compiled = torch.compile(whole, backend="eager")
    profile = recorded(tmp_path, lambda i: compiled(torch.ones(2 + i), 1.0))

    (row,) = of(profile).recompiled
    assert (row.function, row.line) == ("whole", inspect.getsourcelines(whole)[1])
    assert (row.compilations, row.steady) == (3, 2)
    assert row.reason is not None
    assert "size mismatch at index 0" in row.reason
    assert not row.at_limit
    assert profile.configuration.graph_breaks == 0


def test_a_function_that_the_compiler_has_given_up_is_named(tmp_path: Path) -> None:
    compiled = torch.compile(whole, backend="eager")
    with torch._dynamo.config.patch(cache_size_limit=2):
        profile = recorded(tmp_path, lambda i: compiled(torch.ones(2 + i), 1.0), steps=5)

    (row,) = of(profile).recompiled
    assert row.at_limit
    assert row.compilations >= 2
    assert of(profile).limit == 2


def test_a_program_that_does_not_compile_has_no_such_table(tmp_path: Path) -> None:
    assert recorded(tmp_path, lambda _: whole(torch.ones(2), 2.0)).compilation is None
