"""Other links, bytes, batches and numbers of ranks: the model's parts, and recorded ranks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from builders import MS, a_healthy_run, a_run, even_steps
from click.testing import CliRunner, Result
from exchanges import a_program, sent

from stepscope.advisor.advise import advise
from stepscope.advisor.cli import cli
from stepscope.advisor.html import render
from stepscope.advisor.inputs import load_input
from stepscope.advisor.knowledge import Predictor
from stepscope.advisor.measure import measure
from stepscope.advisor.predict import outcome, predict
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.scaling import waiting
from stepscope.advisor.scaling.answer import Forecast, answer
from stepscope.advisor.scaling.curve import curve
from stepscope.advisor.scaling.forecast import Scenario
from stepscope.advisor.scaling.link import hops, latency
from stepscope.advisor.scaling.traffic import Buckets
from stepscope.profiler.format import Collective, Optimizer, Profile
from stepscope.profiler.storage import save

RECORDED = Path(__file__).parent / "recorded"
LINK, MESSAGES = RECORDED / "ranks_link", RECORDED / "ranks_messages"
TRACES = Path(__file__).parent / "traces" / "data"


def asked(profile: Profile, **changes: Any) -> Forecast:
    return answer(profile, Scenario(**changes), "job")


def of_all_ranks(profile: Profile, late_ms: float = 0.0, ranks: int = 2) -> Profile:
    """As if the records of all ranks had told transfer from waiting."""
    steps = profile.steady
    steps.phases["straggler"] = [round(late_ms * MS * n) for n in steps.count]
    steps.wall_ns = [w + s for w, s in zip(steps.wall_ns, steps.phases["straggler"], strict=True)]
    profile.run.world_size = ranks
    return profile


def replicas(compute: float = 40.0, exposed: float = 60.0, **changes: Any) -> Profile:
    """DistributedDataParallel: 4 buckets, the first ready after a quarter of backward."""
    phases = {"forward": 10.0, "backward": compute + exposed}
    found = Collective(
        backend="gloo",
        gradient_bytes=4_000_000,
        buckets=4,
        bucket_bytes=[1_000_000] * 4,
        communication_ns=round((0.75 * compute + exposed) * MS),
        overlap_ns=round(0.75 * compute * MS),
        backward_ns=round(compute * MS),
        first_bucket_ns=round(0.25 * compute * MS),
    )
    steady = even_steps(phases, calls=changes.pop("calls", {"optimizer_steps": 100}))
    profile = a_run(phases, steady=steady, collectives=[found], **changes)
    profile.window = None
    return of_all_ranks(profile)


def test_latency_is_told_from_several_sizes_with_an_interval() -> None:
    chance, inside = random.Random(0), 0
    for _ in range(50):
        rows = [sent(size) for size in (1_000, 30_000, 250_000, 1_000_000, 8_000_000)]
        for row in rows:
            row.quick_ns = round((row.quick_ns or 0) * chance.gauss(1, 0.05))
        found = latency(a_program(*rows), "gloo")
        assert found.told
        assert found.high < 2 * found.low
        inside += found.low < 0.5e-3 / 2 < found.high  # two hops of two ranks

    assert inside >= 40  # 45 on average


def test_from_one_size_both_are_only_bounded() -> None:
    found = latency(a_program(sent(1_000_000)), "gloo")

    assert not found.told
    assert found.low == 0
    assert found.low < found.likely < found.high <= 1.5e-3 / 2


def test_hops_of_a_ring_and_of_a_tree() -> None:
    assert [hops("all_reduce", n, "gloo") for n in (2, 4, 64)] == [2, 6, 126]
    assert [hops("allreduce", n, "nccl") for n in (2, 4, 64)] == [2, 4, 12]
    assert [hops("reduce_scatter", n, "gloo") for n in (2, 4)] == [1, 3]
    assert [hops("broadcast", n, "gloo") for n in (2, 4, 5)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("expected", "draw"),
    [
        (waiting.normal_maximum, lambda chance: chance.gauss(0, 1)),
        (waiting.exponential_maximum, lambda chance: chance.expovariate(1) - 1),
    ],
)
@pytest.mark.parametrize("count", [2, 5, 64])
def test_the_last_of_several(expected: Any, draw: Any, count: int) -> None:
    chance = random.Random(0)
    largest = [max(draw(chance) for _ in range(count)) for _ in range(4000)]
    assert expected(count) == pytest.approx(fmean(largest), rel=0.05)


def test_buckets_hide_behind_backward() -> None:
    one = Buckets((4,), first=1.0, compute=1.0)
    four = Buckets((1, 1, 1, 1), first=0.25, compute=1.0)

    assert [one.exposed(x, 1.0) for x in (0.0, 0.5, 2.0)] == [0.0, 0.5, 2.0]
    # The last bucket is ready when backward ends; before that the link is busy from 0.25 on.
    assert [four.exposed(x, 1.0) for x in (0.4, 1.0, 2.0)] == pytest.approx([0.1, 0.25, 1.25])
    assert four.exposed(2.0, 2.0) == pytest.approx(0.5)
    assert four.channel(1.25) == pytest.approx(2.0)


def test_bandwidth_leaves_latency_as_it_is() -> None:
    """Each of 4 messages: 0.5 ms of latency, and its bytes at 1 GB/s."""
    rows = [sent(size) for size in (1_000, 60_000, 1_000_000, 8_000_000)]
    now = sum(row.time_ns or 0 for row in rows) / 100 / 1e9
    profile = of_all_ranks(a_program(*rows))
    found = asked(profile, link=2)

    assert found.step_seconds == pytest.approx(0.010 + now)
    expected = 0.010 + 0.002 + (now - 0.002) / 2
    assert found.predicted_step_seconds == pytest.approx(expected, rel=0.01)
    assert found.link is not None
    assert found.link.bus_bytes_per_s == pytest.approx(1e9, rel=0.02)
    encoding = 3 * sum((row.bytes or 0) for row in rows) / 100 / 18e9  # of the calibrated machine
    half = asked(profile, gradient_bytes=0.5).predicted_step_seconds
    assert half == pytest.approx(expected + encoding, rel=0.01)


def test_barriers_and_metrics_stay_where_gradients_are_sent_for_the_program() -> None:
    barrier = sent(0, kind="barrier", bytes=None)
    assert asked(of_all_ranks(a_program(barrier)), link=2).throughput.speedup == pytest.approx(1)

    profile = replicas()
    steady = profile.steady
    steady.calls["collectives"] = [1] * len(steady.count)
    profile.collective_calls = [sent(4_000_000)]
    called = steady.phases["communication"] = [round(4.5 * MS) * n for n in steady.count]
    steady.wall_ns = [wall + spent for wall, spent in zip(steady.wall_ns, called, strict=True)]
    gone = asked(profile, accumulate=10**6)
    assert gone.predicted_step_seconds == pytest.approx(0.050 + 0.0045, rel=0.02)


def test_what_backward_hides_costs_nothing_to_begin_with() -> None:
    # 90 ms on the link, 30 of them hidden: of 45 ms 15 are left, for the link has to wait no more.
    found = asked(replicas(), link=2)

    assert found.predicted_step_seconds == pytest.approx(0.050 + 0.015, rel=0.03)
    assert found.throughput.low < 110 / 65 < found.throughput.high


def test_accumulation_divides_what_is_exposed() -> None:
    assert asked(replicas(), accumulate=4).predicted_step_seconds == pytest.approx(0.065, rel=0.01)
    already = replicas(calls={"optimizer_steps": 25, "no_syncs": 75})
    assert asked(already, accumulate=4).throughput.speedup == pytest.approx(1)
    assert asked(already, accumulate=8).throughput.speedup > 1.1


def test_a_larger_batch_hides_more() -> None:
    found = asked(replicas(), batch=2)

    assert found.predicted_step_seconds == pytest.approx(2 * 0.050 + 0.030, rel=0.02)
    assert found.throughput.speedup == pytest.approx(2 * 110 / 130, rel=0.02)


def test_more_ranks_exchange_more_and_wait_longer() -> None:
    alike = of_all_ranks(a_program(sent(8_000_000)), ranks=2)
    weak = asked(alike, ranks=4)
    # 2 (n - 1) / n of the bytes: half as much again.
    assert weak.predicted_step_seconds == pytest.approx(0.010 + 1.5 * 0.0085, rel=0.02)
    assert weak.throughput.speedup == pytest.approx(2 * 18.5 / 22.75, rel=0.02)
    assert weak.predicted_efficiency < weak.efficiency < 1

    late = asked(of_all_ranks(a_program(sent(1_000)), late_ms=5), ranks=4)
    assert late.predicted_step_seconds - 0.0105 == pytest.approx(0.005 * 1.82, rel=0.25)
    assert late.step_low < 0.0105 + 0.0055
    assert asked(alike, ranks=1).predicted_efficiency == 1


def test_a_slow_loader_holds_the_step_back_all_the_same() -> None:
    profile = of_all_ranks(a_program(sent(8_000_000)))
    waits = [60 * MS * n for n in profile.steady.count]
    profile.steady.phases["data_wait"] = waits
    profile.steady.wall_ns = [w + d for w, d in zip(profile.steady.wall_ns, waits, strict=True)]

    assert asked(profile, link=100).throughput.speedup < 1.15


def test_one_rank_cannot_tell_waiting_from_transfer() -> None:
    profile = a_program(sent(8_000_000))
    found = asked(profile, link=2).throughput

    assert found.low == pytest.approx(1, abs=0.02)
    assert "one rank's record cannot tell" in found.assumes


@pytest.mark.parametrize(
    ("folder", "measured"),
    [
        (
            LINK,
            {
                "--link 2": 0.1570,
                "--accumulate 4": 0.1594,
                "--batch 2": 0.3079,
                "--ranks 4": 0.4224,
                "--ranks 4 --scaling strong": 0.4151,
            },
        ),
        (MESSAGES, {"--link 2": 0.2588, "--accumulate 4": 0.1811}),
    ],
)
def test_real_ranks_came_out_as_predicted(folder: Path, measured: dict[str, float]) -> None:
    """Measured in `bench/scaling.py`, whose recordings these are."""
    for options, seconds in measured.items():
        found = json.loads(what_if(folder, *options.split(), "--json").output)
        assert found["predicted_step_seconds"] == pytest.approx(seconds, rel=0.1), options
        assert found["step_low"] < seconds < found["step_high"]


def what_if(path: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["what-if", str(path), *options])


def test_the_answer_on_a_terminal() -> None:
    words = " ".join(what_if(LINK, "--ranks", "4", "--gradient-bytes", "0.5").output.split())

    assert "If gradients took 0.5 of their bytes and 4 ranks trained instead of 2" in words
    assert "throughput" in words
    assert "efficiency" in words
    assert "then the step is held by exchanging gradients" in words
    assert "latency cannot be told from bandwidth" in words


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (RECORDED / "unstacked.json", ["--link", "2"], "profile two ranks at least"),
        (RECORDED / "unstacked.json", ["--ranks", "4"], "one process exchanges nothing"),
        (LINK, ["--scaling", "weak"], "name their number with --ranks"),
        (LINK, ["--link", "2", "sy-ovl"], "name methods, or changes"),
        (LINK, ["--link", "0"], "--link"),
        (LINK, ["--gradient-bytes", "nan"], "--gradient-bytes nan: give a number above 0"),
        (TRACES / "launch_bound_a100.json.gz", ["--link", "2"], "one process exchanges nothing"),
    ],
)
def test_what_cannot_be_told_is_refused(path: Path, options: list[str], words: str) -> None:
    result = what_if(path, *options)

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_ranks_whose_collectives_nobody_timed_are_refused(tmp_path: Path) -> None:
    profile = a_healthy_run()
    profile.run.world_size = 8
    save(profile, tmp_path / "profile.json")

    result = what_if(tmp_path / "profile.json", "--link", "2")
    assert "no collective of these 8 ranks was timed" in " ".join(result.stderr.split())


def test_a_single_process_may_ask_for_another_batch() -> None:
    assert "samples/s" in what_if(RECORDED / "jpeg_decode.json", "--batch", "2").output


def test_of_a_trace_what_is_hidden_is_known_as_time() -> None:
    profile = load_input(TRACES / "nccl_overlapped_a100.json.gz")
    faster, without = asked(profile, link=2), asked(profile, hidden=True)

    assert 1 < faster.throughput.speedup < without.throughput.speedup
    assert without.throughput.speedup == pytest.approx(75.656 / (75.656 - 9.637), rel=0.01)


def test_the_report_has_the_curve_and_the_table_behind_it() -> None:
    profile = load_input(LINK)
    advice = advise(profile, load_knowledge())
    page = render(advice, profile)

    assert "More ranks, or fewer" in page
    assert "<td>strong</td>" in page
    assert any(note.startswith("What the exchange itself could gain") for note in advice.notes)
    assert curve(load_input(LINK / "profile.rank0.json")) is None


def overlap(profile: Profile) -> tuple[float, str]:
    measurement = measure(profile)
    found = outcome(Predictor(name="overlap"), profile, measurement.stages)
    assert found is not None
    return predict(found, lambda stages: stages, measurement).speedup, found.assumes


def test_overlap_gains_what_fits_behind_backward() -> None:
    # The link is busy all but the first 10 ms of backward, of which smaller buckets save a half.
    assert overlap(replicas())[0] == pytest.approx(110 / 105, rel=0.01)

    late = replicas(compute=60.0, exposed=30.0)
    late.collectives[0].bucket_bytes = [4_000_000]
    late.collectives[0].first_bucket_ns = 60 * MS
    speedup, words = overlap(late)
    assert speedup == pytest.approx(100 / 72, rel=0.05)
    assert "buckets of gradients" in words


def test_overlap_counts_exchanges_that_accumulation_makes_needless() -> None:
    profile = replicas(calls={"optimizer_steps": 25, "no_syncs": 0})
    profile.configuration.optimizers = [Optimizer(class_name="SGD", parameters=10, tensors=2)]
    speedup, words = overlap(profile)

    assert speedup > 110 / 66
    assert "only one of 4 backward passes exchanges" in words
