"""Reports of a dozen kinds of profiles, as a browser is to open them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from builders import (
    MS,
    a_data_bound_run,
    a_finding,
    a_healthy_run,
    a_histogram,
    a_loader,
    a_place,
    a_product,
    a_profile,
    a_recommendation,
    an_advice,
    some_batches,
    some_steps,
    some_totals,
    some_work,
)

from stepscope.advisor.advise import advise
from stepscope.advisor.critical_path import OWNERS
from stepscope.advisor.html import render
from stepscope.advisor.inputs import load_input
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import (
    Batches,
    CriticalPath,
    Gpu,
    HostTimes,
    Link,
    Loader,
    Mark,
    PathKernel,
    PathOperator,
    Profile,
    Ranks,
    RankTimes,
    Replayed,
    Run,
    Samples,
    Steps,
    Trace,
    Worker,
)

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)><!--\u2028]]>"
SPIKE_ROW = 1234
SECOND = 1000 * MS


def write_reports(folder: Path) -> Iterator[Path]:
    """Write all reports; yields each one."""
    pages = {name: render(an_advice(), build()) for name, build in PROFILES.items()}
    profile = a_data_bound_run()
    pages["judged"] = render(advise(profile, load_knowledge()), profile)
    profile = with_path()
    pages["critical_path"] = render(advise(profile, load_knowledge()), profile)
    pages["hostile"] = hostile()
    for name, page in pages.items():
        path = folder / f"{name}.html"
        path.write_text(page, "utf-8")
        yield path


def many_workers() -> Loader:
    """20 workers, the batches of one after those of another, every second one kept."""
    count = 400
    busy = Batches(
        stride=2,
        worker=[i % 20 for i in range(count)],
        start_ns=[i * 20 * MS for i in range(count)],
        wall_ns=[300 * MS] * count,
        cpu_ns=[120 * MS] * count,
        run_delay_ns=[60 * MS] * count,
    )
    totals = some_totals(40, wall=300.0, cpu=120.0, run_delay=60.0)
    workers = [Worker(id=i, pid=100 + i, totals=totals) for i in range(20)]
    return a_loader(num_workers=20, workers=workers, batches=busy)


def with_path() -> Profile:
    profile = a_data_bound_run()
    profile.trace = Trace(
        critical_path=CriticalPath(
            owners={name: [5 * MS, 6 * MS] for name in OWNERS},
            operators=[PathOperator(name="aten::mm", host_ns=3 * MS, device_ns=2 * MS)],
            kernels=[PathKernel(name="k<" * 90, category="gemm", calls=3, time_ns=2 * MS)],
            ranks={7: 100 * MS, 1: 80 * MS},
            replayed=[
                Replayed(
                    scenario="launch_free",
                    steps=2,
                    recorded_ns=242 * MS,
                    wall_ns=100 * MS,
                    owners={"gemm": 60 * MS, "collective": 40 * MS},
                )
            ],
        )
    )
    return profile


def with_gpus() -> Profile:
    profile = a_data_bound_run()
    ticks = range(300)
    columns: dict[str, list[float | None]] = {"job_busy_cores": [2.0 + i % 3 for i in ticks]}
    for gpu in range(2):
        columns |= {
            f"gpu{gpu}_utilisation": [0.3 + 0.2 * (i % 2) for i in ticks],
            f"gpu{gpu}_memory_used_bytes": [1e9 + 1e7 * i for i in ticks],
            f"gpu{gpu}_power_w": [200.0 + i % 7 for i in ticks],
            f"gpu{gpu}_temperature_c": [None if i < 9 else 60.0 + i / 30 for i in ticks],
            f"gpu{gpu}_sm_clock_mhz": [1410.0] * 300,
        }
    profile.samples = Samples(time_ns=[i * SECOND for i in ticks], columns=columns)
    profile.environment.gpus = [
        Gpu(index=i, name="NVIDIA Example", memory_bytes=80 * 10**9) for i in range(2)
    ]
    return profile


def a_million_steps() -> Profile:
    """4,096 rows of 244 steps; one single step among them took 30 times as long."""
    rows, each = 4096, 244
    wall = [each * (20 + i % 5) * MS for i in range(rows)]
    longest = [total // each + MS for total in wall]
    longest[SPIKE_ROW] = 600 * MS
    wall[SPIKE_ROW] += 580 * MS
    steady = Steps(
        first=[20 + each * i for i in range(rows)],
        count=[each] * rows,
        wall_ns=wall,
        wall_max_ns=longest,
        cpu_ns=wall,
        process_cpu_ns=wall,
        wait_cpu_ns=[0] * rows,
        phases={"data_wait": [t // 2 for t in wall], "forward": [t - t // 2 for t in wall]},
    )
    return a_profile(
        steady=steady,
        marks=[
            Mark(kind=kind, step=500 * i, time_ns=i, duration_ns=i * MS)
            for i in range(900)
            for kind in ("checkpoint", "validation")
        ],
    )


def epochs() -> Profile:
    """Three epochs of 80 batches with a validation after each, by two loaders."""
    steady = some_steps(20, 215)
    steady.phases["validation"] = [200 * MS * (i % 80 == 59) for i in range(215)]
    loaders = [
        a_loader(length=80, epochs=3, batches=some_batches([40.0] * 235)),
        a_loader(length=5, epochs=3, training=False, batches=some_batches([10.0] * 15)),
    ]
    return a_profile(steady=steady, step_time=a_histogram(steady), loaders=loaders)


def four_ranks() -> Profile:
    """A recorded job, one rank of which is slow."""
    return load_input(Path(__file__).parents[1] / "advisor" / "recorded" / "ranks_data")


def hostile_ranks() -> Ranks:
    row = RankTimes(rank=0, host=HOSTILE, steps=1, step_ns=MS, own_ns=MS)
    host = HostTimes(host=HOSTILE, ranks=1, own_ns=MS, slowest=0)
    link = Link(
        collective=HOSTILE,
        ranks=[],
        size=2,
        hosts=[HOSTILE],
        calls=1,
        bytes=1,
        time_ns=1,
        algorithm_bytes_per_s=1.0,
        bus_bytes_per_s=1.0,
    )
    return Ranks(count=2, rows=[row], hosts=[host], links=[link])


def hostile() -> str:
    fix = a_recommendation(title=HOSTILE, how_to=HOSTILE, effect=HOSTILE, citations=[HOSTILE])
    place = a_place(file=HOSTILE, function=HOSTILE, transform=HOSTILE)
    finding = a_finding(title=HOSTILE, evidence=HOSTILE, recommendations=[fix], places=[place])
    profile = a_profile(
        run=Run(
            started_at=HOSTILE, wall_ns=1, ended="exception", exception=HOSTILE, argv=[HOSTILE]
        ),
        ranks=hostile_ranks(),
        marks=[Mark(kind=HOSTILE, step=30, time_ns=0, detail=HOSTILE)],
        loaders=[a_loader(dataset=HOSTILE, batches=some_batches([40.0] * 9))],
        samples=Samples(time_ns=[0, 1], columns={HOSTILE: [1.0, 2.0]}),
    )
    profile.steady.phases[HOSTILE] = profile.steady.phases.pop("python")
    profile.environment.variables = {HOSTILE: HOSTILE}
    assert profile.window is not None
    profile.window.counted = some_work(a_product(HOSTILE, dtype=HOSTILE, time_ns=20 * MS))
    advice = an_advice(
        findings=[finding], notes=[HOSTILE], source=HOSTILE, facts={HOSTILE: HOSTILE}
    )
    return render(advice, profile)


def changed(build: Callable[..., Profile], **changes: Any) -> Callable[[], Profile]:
    return lambda: build(**changes)


PROFILES: dict[str, Callable[[], Profile]] = {
    "healthy": a_healthy_run,
    "typical": a_profile,
    "no_loader": changed(a_profile, loaders=[]),
    "no_window": changed(a_profile, window=None),
    "no_samples": changed(a_profile, samples=Samples(time_ns=[], columns={})),
    "few_steps": changed(a_profile, steady=some_steps(20, 6)),
    "many_workers": changed(a_profile, loaders=[many_workers()]),
    "gpus": with_gpus,
    "million": a_million_steps,
    "epochs": epochs,
    "ranks": four_ranks,
    "killed": changed(a_profile, run=Run(started_at="2026-01-15", wall_ns=9, ended="running")),
}


def figures_in(page: str) -> dict[str, Any]:
    """The data block of a report."""
    block = page.split('id="figures">')[1].split("</script>", maxsplit=1)[0]
    decoded: dict[str, Any] = msgspec.json.decode(block)
    return decoded
