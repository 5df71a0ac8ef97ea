from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loops import assert_exclusive, calls, record, run_steps, spent
from torch import Tensor, distributed

from stepscope.profiler import profile

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="no torch.distributed")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_collectives_of_the_program_are_communication(tmp_path: Path) -> None:
    gradient = torch.ones(1000)

    def step() -> None:
        distributed.all_reduce(gradient)
        distributed.all_gather_object([None], {"loss": 1.0})

    before = vars(distributed).copy(), distributed.Work.wait
    recorded = record(tmp_path / "p.json", lambda prof: run_steps(prof, step))

    assert calls(recorded, "collectives") == 2 * 3
    assert spent(recorded, "communication") > 0
    assert [s.function for s in recorded.sites if s.phase == "communication" and s.calls] == [
        "test_collectives_of_the_program_are_communication.<locals>.step".rpartition(".")[2]
    ] * 2
    assert_exclusive(recorded)
    assert (vars(distributed), distributed.Work.wait) == before


@pytest.mark.usefixtures("alone")
def test_waiting_for_what_was_begun_is_communication_too(tmp_path: Path) -> None:
    def begin() -> None:
        work = distributed.all_reduce(torch.ones(10), async_op=True)
        assert work is not None
        work.wait()

    recorded = record(tmp_path / "p.json", lambda prof: run_steps(prof, begin))

    waits = [site for site in recorded.sites if site.phase == "communication" and site.calls]
    assert len({site.line for site in waits}) == 2
    assert calls(recorded, "collectives") == 3


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_compiled_graph_keeps_its_collectives(tmp_path: Path) -> None:
    def averaged(x: Tensor) -> Tensor:
        y = x * 2
        distributed.all_reduce(y)
        return y + 1

    def loop(prof: profile) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(averaged, backend="eager", fullgraph=True)
        run_steps(prof, lambda: results.append(compiled(torch.ones(3))))

    results: list[Tensor] = []
    record(tmp_path / "p.json", loop)

    assert [result.tolist() for result in results] == [[3.0] * 3] * 3
