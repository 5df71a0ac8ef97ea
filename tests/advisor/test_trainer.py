from __future__ import annotations

from typing import Any

import pytest
from builders import CALIBRATION, MS, a_run, a_site, even_samples, even_steps
from msgspec.structs import replace

from stepscope.advisor.measure import measure
from stepscope.advisor.places import places_of
from stepscope.advisor.samples import theil_sen
from stepscope.advisor.trainer import (
    Trainer,
    growth_bytes_per_step,
    growth_seconds,
)
from stepscope.profiler.format import (
    Collective,
    Operator,
    Optimizer,
    Profile,
    Samples,
    Window,
    WindowPhase,
)

ARITHMETIC, LAUNCH = "compute.arithmetic", "compute.launch"


def causes(profile: Profile, steps: float = 1, **phases: float) -> dict[str, float]:
    found = Trainer(profile).causes(phases, steps)
    return {cause: seconds for cause, seconds in found.items() if seconds > 0}


def a_trainer(**changes: Any) -> Profile:
    return a_run({"forward": 100.0}, **changes)


def exchanging(communication: float, overlap: float) -> Collective:
    return Collective(
        gradient_bytes=1,
        buckets=1,
        communication_ns=round(communication * MS),
        overlap_ns=round(overlap * MS),
        backward_ns=1,
    )


def growing(bytes_per_s: float, samples: int = 60, noise: float = 0.0) -> Samples:
    """Resident memory, sampled each second, after a jump at the start."""
    start = samples // 3
    rss = [
        1e8 if s < start else 2e9 + bytes_per_s * s + noise * (s % 7 == 0) for s in range(samples)
    ]
    return Samples(
        time_ns=[s * 1000 * MS for s in range(samples)],
        columns={"rss_bytes": list[float | None](rss)},
    )


def test_waiting_for_data_is_no_work_of_the_trainer() -> None:
    assert causes(a_trainer(), data_wait=5.0, forward=2.0) == {ARITHMETIC: 2.0}


def test_the_time_is_kept_whole() -> None:
    phases = {"forward": 1.0, "backward": 2.0, "logging": 0.5, "own": 0.25, "after_backward": 0.1}

    found = causes(a_trainer(collectives=[exchanging(300, 0)]), **phases)

    assert sum(found.values()) == pytest.approx(sum(phases.values()))


def test_a_hand_written_update_is_the_optimizer() -> None:
    without = a_trainer()

    assert causes(without, after_backward=3.0) == {"compute.optimizer": 3.0}
    measured = measure(a_run({"backward": 70.0, "after_backward": 30.0})).breakdown.causes
    assert measured["compute.optimizer"].share == pytest.approx(0.3)


@pytest.mark.parametrize("part", ["warmup", "steady"])
def test_beside_an_optimizer_what_follows_backward_is_python(part: str) -> None:
    stepping = even_steps({"forward": 100.0}, calls={"optimizer_steps": 100})
    profile = a_trainer(**{part: stepping})

    assert causes(profile, after_backward=3.0, optimizer=1.0) == {
        "host.python": 3.0,
        "compute.optimizer": 1.0,
    }


def test_functional_losses_in_python_compute() -> None:
    window = Window(
        first_step=1,
        steps=1,
        wall_ns=100,
        phases={"python": WindowPhase(wall_ns=100, operator_ns=60, gap_ns=20)},
        operators=[Operator(name="aten::mm", calls=0, self_cpu_ns=60, phase="python")],
    )

    found = causes(a_trainer(window=window), python=10.0)

    # 80 of 100 ns compute: 60 in products, 20 between them.
    assert found == {
        "host.python": pytest.approx(2.0),
        ARITHMETIC: pytest.approx(6.0),
        LAUNCH: pytest.approx(2.0),
    }


def test_what_backward_does_not_hide_of_the_exchange_is_taken_out_of_computing() -> None:
    profile = a_trainer(collectives=[exchanging(45, 15), exchanging(10, 30)])

    found = causes(profile, steps=10, forward=1.0, backward=1.0)

    assert found == {
        ARITHMETIC: pytest.approx(1.7),
        "communication.collective": pytest.approx(0.3),
    }
    assert causes(profile, steps=1000, forward=1.0, backward=1.0) == {
        ARITHMETIC: pytest.approx(1.0),
        "communication.collective": pytest.approx(1.0),
    }


# Growth -----------------------------------------------------------------------------------------


def test_growth_is_the_slope_after_start_up() -> None:
    # 100 ms a step: ten steps a second.
    assert growth_bytes_per_step(a_trainer(samples=growing(1e7))) == pytest.approx(1e6)
    noisy = growing(1e7, noise=5e8)
    assert growth_bytes_per_step(a_trainer(samples=noisy)) == pytest.approx(1e6, rel=0.3)


def test_memory_dropped_now_and_then_grows_in_between() -> None:
    teeth = Samples(
        time_ns=[s * 1000 * MS for s in range(60)],
        columns={"rss_bytes": [1e9 + 1e7 * (s % 6) for s in range(60)]},
    )
    wobbling = Samples(
        time_ns=[s * 1000 * MS for s in range(60)],
        columns={"rss_bytes": [1e9 + 1e7 * (s % 2) for s in range(60)]},
    )

    assert growth_bytes_per_step(a_trainer(samples=teeth)) == pytest.approx(1e6)
    assert growth_bytes_per_step(a_trainer(samples=wobbling)) == pytest.approx(0.0)


def test_too_few_samples_show_no_growth() -> None:
    assert growth_bytes_per_step(a_trainer(samples=growing(1e7, samples=9))) is None
    assert growth_bytes_per_step(a_trainer()) is None


def test_memory_that_is_kept_costs_its_fresh_pages() -> None:
    profile = a_trainer(samples=growing(4e8))  # touched by four threads
    assert growth_seconds(profile) == 0  # nobody timed fresh memory
    profile.environment.calibration = replace(CALIBRATION, fresh_bytes_per_s=1e9)

    assert growth_seconds(profile) == pytest.approx(0.01)
    assert causes(profile, steps=2, forward=0.2) == {
        ARITHMETIC: pytest.approx(0.18),
        "memory.growth": pytest.approx(0.02),
    }
    # It can be no more than there was to take it from.
    assert causes(profile, steps=2, forward=0.01, logging=0.2)["memory.growth"] == 0.01
    assert measure(profile).breakdown.causes["memory.growth"].share == pytest.approx(0.1)


def test_memory_that_is_given_back_costs_nothing() -> None:
    profile = a_trainer(samples=growing(-1e8))
    profile.environment.calibration = replace(CALIBRATION, fresh_bytes_per_s=1e9)

    assert growth_seconds(profile) == 0


def test_the_slope_ignores_outliers() -> None:
    line = [(float(x), 3.0 * x + 1) for x in range(30)]
    line[7], line[20] = (7.0, 1e9), (20.0, -1e9)

    assert theil_sen(line) == pytest.approx(3.0)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 5.0)]])
def test_points_without_extent_have_no_slope(points: list[tuple[float, float]]) -> None:
    assert theil_sen(points) == 0


def test_a_long_series_is_thinned_out() -> None:
    assert theil_sen([(float(x), -0.5 * x) for x in range(5000)]) == pytest.approx(-0.5)


def writing(chunk: int, looks: int = 30) -> Profile:
    """Of the time between phases a third goes to lines that write, `chunk` bytes at a time."""
    profile = a_run({"forward": 70.0, "python": 30.0})
    profile.samples.columns |= {
        "written_bytes_per_s": [None, 100.0 * chunk],
        "writes_per_s": [None, 100.0],
    }
    profile.sites = [
        a_site("python", writes=True, samples=looks // 3),
        a_site("python", line=43, samples=looks - looks // 3),
        a_site("forward", line=44, samples=100),
    ]
    return profile


def test_lines_that_write_little_log_and_lines_that_write_much_save() -> None:
    few = causes(writing(200), python=30.0)
    much = causes(writing(1 << 20), python=30.0)

    assert few == {"host.python": pytest.approx(20.0), "host.logging": pytest.approx(10.0)}
    assert much == {"host.python": pytest.approx(20.0), "host.checkpoint": pytest.approx(10.0)}
    place = places_of(writing(200))["host.logging"][0]
    assert (place.line, place.share) == (42, 1.0)


def test_a_few_looks_do_not_make_a_log() -> None:
    assert causes(writing(200, looks=12), python=30.0) == {"host.python": pytest.approx(30.0)}


def reading(state: str, looks: int = 30, **columns: float) -> Profile:
    """A loop that gets its data itself: in a third of the looks it was seen doing that."""
    phases = {"python": 30.0, "forward": 70.0}
    steady = even_steps(phases, cpu=100.0)
    profile = a_run(phases, steady=steady, samples=even_samples(**columns))
    profile.sites = [
        a_site("python", state, samples=looks // 3),
        a_site("python", line=43, samples=looks - looks // 3),
    ]
    return profile


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("file", "data_loading.storage"),
        ("fault", "data_loading.storage"),
        ("open", "data_loading.small_files"),
        ("socket", "data_loading.network"),
    ],
)
def test_a_loop_that_gets_its_data_itself_waits_for_data(state: str, cause: str) -> None:
    assert causes(reading(state), python=30.0)[cause] == pytest.approx(10.0)
    assert places_of(reading(state))[cause][0].line == 42


@pytest.mark.parametrize("state", ["running", "lock", "sleep", "child"])
def test_other_sleeps_of_a_loop_are_python(state: str) -> None:
    assert causes(reading(state), python=30.0) == {"host.python": pytest.approx(30.0)}


def test_a_few_looks_at_a_file_tell_nothing() -> None:
    assert causes(reading("file", looks=12), python=30.0) == {"host.python": pytest.approx(30.0)}


def test_reads_through_a_mapped_file_are_told_by_their_faults() -> None:
    rare = reading("lock", major_faults_per_s=5.0, kernel_cores=0.12)
    often = reading("lock", major_faults_per_s=100.0, kernel_cores=0.12)  # ten in a step

    assert causes(rare, python=30.0) == {"host.python": pytest.approx(30.0)}
    # 12 ms of a step of 100 in the kernel, of 30 ms between the phases
    assert causes(often, python=30.0)["data_loading.storage"] == pytest.approx(12.0)


def test_what_treats_gradients_before_the_optimizer_is_the_update() -> None:
    phases = {"after_backward": WindowPhase(wall_ns=10 * MS, operator_ns=4 * MS, gap_ns=3 * MS)}
    window = Window(first_step=0, steps=1, wall_ns=10 * MS, phases=phases, operators=[])
    profile = a_trainer(
        window=window, steady=even_steps({"forward": 100.0}, calls={"optimizer_steps": 100})
    )

    assert causes(profile, after_backward=10.0) == {
        "compute.optimizer": pytest.approx(7.0),
        "host.python": pytest.approx(3.0),
    }


@pytest.mark.parametrize(
    ("collectives", "cause"), [(1, "communication.collective"), (40, "communication.messages")]
)
def test_a_message_for_nearly_every_tensor_is_many_messages(collectives: int, cause: str) -> None:
    calls = {"collectives": 100 * collectives}
    steady = even_steps({"communication": 100.0}, calls=calls)
    profile = a_run({"communication": 100.0}, steady=steady)
    profile.configuration.optimizers = [Optimizer(class_name="SGD", parameters=999, tensors=40)]

    assert causes(profile, communication=100.0) == {cause: pytest.approx(100.0)}


@pytest.mark.parametrize(
    ("size", "cause"), [(500, "data_loading.small_files"), (1 << 20, "data_loading.storage")]
)
def test_statements_that_read_files_are_about_the_files(size: int, cause: str) -> None:
    profile = reading("running", read_bytes_per_s=100.0 * size, reads_per_s=100.0)
    profile.sites[0].reads = True

    assert causes(profile, python=30.0)[cause] == pytest.approx(10.0)


def fed(state: str, **cores: float) -> Profile:
    """Of 30 ms between the phases a third in exchanges with processes of its own."""
    profile = reading(state, 30, **cores)
    profile.sites[0].line = 7
    profile.steady.process_cpu_ns = profile.steady.wall_ns  # a core
    return profile


@pytest.mark.parametrize(
    ("cores", "causes_named"),
    [
        ({"job_busy_cores": 2.0}, {"cpu_preprocessing.transform": 1.0}),
        (
            {"job_busy_cores": 1.5, "handing_threads_cores": 0.1},
            {"cpu_preprocessing.transform": 2 / 3, "cpu_preprocessing.handover": 1 / 3},
        ),
        ({"job_busy_cores": 1.0}, {"data_loading.network": 1.0}),
    ],
)
def test_waiting_for_processes_divides_by_what_they_use(
    cores: dict[str, float], causes_named: dict[str, float]
) -> None:
    found = causes(fed("awaiting", **cores), python=30.0)

    assert found.pop("host.python") == pytest.approx(20.0)
    assert found == {cause: pytest.approx(10.0 * part) for cause, part in causes_named.items()}


def test_taking_what_processes_send_is_handing_over() -> None:
    found = causes(fed("receiving"), python=30.0)

    assert found["cpu_preprocessing.handover"] == pytest.approx(10.0)
    assert places_of(fed("receiving"))["cpu_preprocessing.handover"][0].line == 7


def test_a_loss_is_divided_by_its_own_part_of_the_window() -> None:
    phases = {
        "python": WindowPhase(wall_ns=10 * MS, operator_ns=0),
        "after_forward": WindowPhase(wall_ns=10 * MS, operator_ns=8 * MS, gap_ns=1 * MS),
    }
    window = Window(first_step=0, steps=1, wall_ns=20 * MS, phases=phases, operators=[])
    found = causes(a_trainer(window=window), after_forward=10.0, python=5.0)

    assert found["host.python"] == pytest.approx(5.0 + 1.0)
    assert sum(found.values()) == pytest.approx(15.0)
