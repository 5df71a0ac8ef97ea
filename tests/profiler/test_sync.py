from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loops import MS, Net, Points, assert_exclusive, calls, record, run_steps, spent
from torch.utils.data import DataLoader

from stepscope.profiler import profile
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import sync
from stepscope.profiler.recorder import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """The probe, installed without a whole recording."""
    made, patches = Recorder(0), Patches()
    sync.install(made, patches, None)  # type: ignore[arg-type]
    yield made
    made.close()
    patches.close()


def syncs(recorder: Recorder) -> int:
    return recorder.counted[recorder.counter("syncs")]


def test_every_way_to_read_a_value_is_counted(recorder: Recorder) -> None:
    value, several = torch.tensor(2.5), torch.tensor([1, 2])
    found = [value.item(), float(value), int(value), bool(value), several.tolist()]
    assert found == [2.5, 2.5, 2, True, [1, 2]]
    assert syncs(recorder) == 5
    if value > 1:
        assert syncs(recorder) == 6
    assert f"{value:.1f}" == "2.5"
    assert syncs(recorder) == 7


def test_what_copies_nothing_is_not_counted(recorder: Recorder) -> None:
    value = torch.ones(3)
    assert value.cpu() is value
    assert value.numpy().shape == (3,)
    assert syncs(recorder) == 0


def test_libraries_that_read_values_for_themselves_are_not_counted(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)  # reads its step counters

    def body(prof: profile) -> None:
        for x, y in prof.steps(DataLoader(Points(16), batch_size=4, shuffle=True)):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    result = record(tmp_path / "profile.json", body)
    assert calls(result, "syncs") == 1  # the loader draws a seed when it is iterated
    assert_exclusive(result)


def test_nothing_is_counted_in_a_validation(recorder: Recorder) -> None:
    outer = recorder.enter(recorder.phase("validation"))
    torch.ones(()).item()
    recorder.leave(outer)
    assert syncs(recorder) == 0


def test_thousands_of_calls_are_estimated_from_some(recorder: Recorder) -> None:
    class Slow:
        is_cuda = False

    def item(tensor: Slow) -> float:
        time.sleep(0.0005)
        return 1.0

    read = sync._Reads(recorder).timed(item, host=True)
    for _ in range(500):
        read(Slow())
    recorder.end_step()
    recorder.close()
    steps = recorder.steps("steady")

    assert steps.calls["syncs"] == [500]
    assert sum(column[0] for column in steps.phases.values()) == steps.wall_ns[0]
    assert steps.phases["sync"][0] >= 0.7 * 500 * 0.5 * MS
    assert all(column[0] >= 0 for column in steps.phases.values())
    (site,) = recorder.sites.as_list(list(recorder.phases))
    assert site.calls == 100 + 16 * 25
    assert site.time_ns >= 0.7 * 500 * 0.5 * MS


def test_the_line_that_waits_is_named(tmp_path: Path) -> None:
    loss = torch.ones(())

    def step() -> None:
        loss.item()
        for _ in range(2):
            float(loss)

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    line = step.__code__.co_firstlineno
    sites = {site.line - line: site for site in result.sites if site.phase == "sync"}
    assert {number: site.calls for number, site in sites.items()} == {1: 3, 3: 6}
    assert {(site.file, site.function) for site in sites.values()} == {(__file__, "step")}
    assert all(site.time_ns > 0 for site in sites.values())
    assert spent(result, "sync") > 0


def test_making_the_text_of_a_host_tensor_is_logging(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: print(torch.ones(200)))
    )
    assert capsys.readouterr().out.count("tensor([1., 1.") == 3
    assert spent(result, "logging") > 0
    assert calls(result, "log_calls") == 3
    assert calls(result, "syncs") == 0
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: str(torch.ones(200)))
    )
    assert spent(result, "logging") > 0
    assert_exclusive(result)


def test_all_is_put_back(tmp_path: Path) -> None:
    names = ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy")
    inside: list[bool] = []

    def body(prof: profile) -> None:
        inside.extend(name in vars(torch.Tensor) for name in names)
        prof.step()

    record(tmp_path / "profile.json", body)
    assert all(inside)
    assert not any(name in vars(torch.Tensor) for name in names)
    assert bool(torch.ones(())) is True


@pytest.mark.parametrize("fails", ["item", "__bool__"])
def test_errors_are_the_tensors_own(recorder: Recorder, fails: str) -> None:
    with pytest.raises(RuntimeError, match=r"Boolean value|cannot be converted"):
        getattr(torch.ones(2), fails)()
    assert recorder.current == recorder.python


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_compiled_code_breaks_where_it_does_without_us(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if bool(y.sum() > 0):
            y = y + 1
        if y.sum() > 0:
            y = y + 1
        return y * y.mean().item() + float(y.max()) + y.cpu().sum() + int(y.sum())

    def breaks() -> dict[str, int]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(function, backend="eager")
        results.extend(compiled(x) for _ in range(2))
        return dict(torch._dynamo.utils.counters["graph_break"])

    x = torch.arange(5.0)
    results = [function(x)]
    expected = breaks()
    found: list[dict[str, int]] = []

    def body(prof: profile) -> None:
        found.append(breaks())
        prof.step()

    record(tmp_path / "profile.json", body)
    torch._dynamo.reset()
    assert found == [expected]
    assert all(torch.equal(result, results[0]) for result in results)
