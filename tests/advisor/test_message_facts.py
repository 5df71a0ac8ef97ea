"""Collectives that the program calls: line through sizes, facts, predictions, table."""

from __future__ import annotations

import pytest
from builders import MS, a_run
from exchanges import BANDWIDTH, LATENCY, a_program, sent
from msgspec.structs import replace

from stepscope.advisor import messages
from stepscope.advisor.advise import advise
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.html import render
from stepscope.advisor.knowledge import Predictor
from stepscope.advisor.measure import measure
from stepscope.advisor.message_tables import link_words, message_rows
from stepscope.advisor.predict import outcome, predict
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import (
    Collective,
    CollectiveCalls,
    FlightRecorder,
    Optimizer,
    Profile,
)


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


@pytest.mark.parametrize("late", [0.0, 30.0 * MS])
def test_latency_and_bandwidth_are_told_apart(late: float) -> None:
    """A rank that is always late adds to the latency alone."""
    sizes = [1_000, 60_000, 1_000_000, 8_000_000]
    line = messages.fitted(a_program(*(sent(size, late=late) for size in sizes)))
    assert line is not None
    assert line.bytes_per_s == pytest.approx(BANDWIDTH, rel=0.01)
    assert line.latency == pytest.approx((LATENCY + late) / 1e9, rel=0.01)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [sent(1_000), sent(9_000_000)],
        [sent(1_000), sent(2_000), sent(4_000)],
        [sent(size, device="cuda") for size in (1_000, 100_000, 9_000_000)],
        [sent(size, asynchronous=True) for size in (1_000, 100_000, 9_000_000)],
        [sent(size, ranks=1) for size in (1_000, 100_000, 9_000_000)],
        [sent(size, quick_ns=10**9 // size) for size in (1_000, 100_000, 9_000_000)],
    ],
    ids=["none", "two sizes", "too alike", "queued", "handles", "alone", "falling"],
)
def test_no_line_from_too_little(rows: list[CollectiveCalls]) -> None:
    assert messages.fitted(a_program(*rows)) is None


@pytest.mark.parametrize(
    ("kind", "ranks", "factor"),
    [
        ("all_reduce", 4, 1.5),
        ("reduce_scatter", 4, 0.75),
        ("all_gather", 8, 0.875),
        ("all_to_all", 2, 0.5),
        ("broadcast", 8, 1.0),
        ("send", 2, 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(kind: str, ranks: int, factor: float) -> None:
    assert messages.bus_factor(kind, ranks) == factor


def test_facts_of_the_calls() -> None:
    pickled = CollectiveCalls(kind="all_gather_object", ranks=2, calls=100, time_ns=500 * MS)
    barrier = CollectiveCalls(kind="barrier", ranks=2, calls=100, time_ns=200 * MS)
    rows = [sent(1_000, 40), sent(100_000), sent(1_000_000), pickled, barrier]
    profile = a_program(*rows)
    step = measure(profile).breakdown.step_seconds

    found = facts(profile)

    assert found["comm.calls_per_step"] == pytest.approx(42)
    assert found["comm.call_bytes"] == pytest.approx((40_000 + 1_100_000) / 42)
    assert found["comm.pickled_share"] == pytest.approx(0.005 / step)
    assert found["comm.barrier_share"] == pytest.approx(0.002 / step)
    assert found["comm.latency_seconds"] == pytest.approx(LATENCY / 1e9, rel=0.01)
    assert found["comm.link_bandwidth"] == pytest.approx(BANDWIDTH, rel=0.01)


def test_no_calls_is_not_the_same_as_not_counted() -> None:
    assert facts(a_program())["comm.calls_per_step"] == 0
    older = a_program(sent(1_000))
    older.collective_calls = []
    assert "comm.calls_per_step" not in facts(older)


def test_how_ddp_is_set_up() -> None:
    exchange = Collective(
        gradient_bytes=1000,
        buckets=2,
        communication_ns=5 * MS,
        overlap_ns=MS,
        backward_ns=10 * MS,
        bucket_cap_bytes=512,
        first_bucket_ns=4 * MS,
        gradient_as_bucket_view=True,
        static_graph=False,
    )
    found = facts(a_run({"backward": 20.0}, collectives=[exchange]))
    assert found["comm.bucket_cap_bytes"] == 512
    assert found["comm.bucket_view"] is True
    assert found["comm.static_graph"] is False
    assert found["comm.first_bucket_share"] == pytest.approx(0.4)
    bare = replace(exchange, bucket_cap_bytes=None, first_bucket_ns=None, static_graph=None)
    assert not {"comm.static_graph", "comm.bucket_cap_bytes", "comm.first_bucket_share"} & {
        *facts(a_run({"backward": 20.0}, collectives=[bare]))
    }


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([sent(16_000, 40)], "communication.messages"),
        ([sent(16_000, 10)], "communication.messages"),
        ([sent(16_000, 4)], "communication.collective"),
        ([sent(4_000_000, 40)], "communication.collective"),
    ],
    ids=["one a tensor", "many", "few", "large"],
)
def test_many_small_messages_are_a_cause_of_their_own(
    rows: list[CollectiveCalls], cause: str
) -> None:
    profile = a_program(*rows)
    profile.configuration.optimizers = [Optimizer(class_name="SGD", parameters=99, tensors=40)]
    assert measure(profile).breakdown.causes[cause].share > 0.1


def predicted(name: str, profile: Profile) -> tuple[float, float, float]:
    measurement = measure(profile)
    change = outcome(Predictor(name=name), profile, measurement.stages)  # type: ignore[arg-type]
    assert change is not None
    found = predict(change, lambda stages: stages, measurement)
    return found.low, found.speedup, found.high


def test_joined_messages_keep_their_bytes_and_one_meeting() -> None:
    rows = [sent(1_000, 39), sent(100_000, 1), sent(2_000_000, 1)]
    profile = a_program(*rows, compute=10.0)
    # 10 ms computing and 23.1 ms for 41 messages; 38 meetings of 0.5 ms go.
    before = 10 + 41 * 0.5 + 39 * 0.001 + 0.1 + 2
    low, speedup, high = predicted("joined_messages", profile)
    assert speedup == pytest.approx(before / (before - 38 * 0.5), rel=0.01)
    assert low < speedup < high


def test_waiting_for_a_late_rank_does_not_go_with_the_messages() -> None:
    """The first of forty waits 20 ms, the others find everybody there."""
    waiting = sent(1_000, 40)
    waiting = replace(waiting, time_ns=(waiting.time_ns or 0) + 100 * 20 * MS)
    _, speedup, high = predicted("joined_messages", a_program(waiting))
    before = 10 + 20 + 40 * 0.501
    assert speedup == pytest.approx(before / (before - 39 * 0.501), rel=0.01)
    assert high > speedup


@pytest.mark.parametrize(
    ("name", "kind"), [("no_pickles", "all_gather_object"), ("no_barriers", "barrier")]
)
def test_calls_that_go_are_a_bound(name: str, kind: str) -> None:
    row = CollectiveCalls(kind=kind, ranks=2, calls=100, time_ns=1000 * MS, median_ns=10 * MS)
    low, speedup, high = predicted(name, a_program(row))
    assert speedup == pytest.approx(20 / 15, rel=0.01)
    assert low <= 1
    assert high >= 2
    profile = a_program(sent(1_000))
    found = outcome(Predictor(name=name), profile, measure(profile).stages)  # type: ignore[arg-type]
    assert found is None


@pytest.mark.parametrize(
    ("rows", "rule", "method"),
    [
        ([sent(16_000, 40)], "small_collectives", "sy-join-messages"),
        (
            [CollectiveCalls(kind="all_gather_object", ranks=2, calls=100, time_ns=400 * MS)],
            "pickled_collectives",
            "sy-tensor-messages",
        ),
        (
            [CollectiveCalls(kind="barrier", ranks=2, calls=100, time_ns=400 * MS)],
            "barriers_in_loop",
            "sy-no-barriers",
        ),
    ],
)
def test_what_is_advised(rows: list[CollectiveCalls], rule: str, method: str) -> None:
    advice = advise(a_program(*rows, compute=2.0), load_knowledge())
    assert advice.verdict.category == "communication"
    [finding] = [found for found in advice.findings if found.rule == rule]
    assert finding.recommendations[0].method == method
    assert method in {step.method for step in advice.plan}


def test_the_report_has_a_table_of_them() -> None:
    profile = a_program(sent(1_000, 3), sent(100_000), sent(1_000_000))
    profile.flight_recorder = FlightRecorder(
        entries=7,
        span_ns=MS,
        calls=[CollectiveCalls(kind="all_to_all", ranks=2, calls=7, bytes=7_000)],
    )
    row = message_rows(profile)[0]
    assert (row.kind, row.ranks, row.size, row.calls) == ("all_reduce", "2", "1.00 kB", "3")
    assert "1.00 GB/s over the slowest link" in link_words(profile)

    page = render(advise(profile, load_knowledge()), profile)

    assert ">Collectives</h2>" in page
    assert ">all_to_all</th>" in page
    assert ">Collectives</h2>" not in render(
        advise(a_run({"forward": 5.0}), load_knowledge()), a_run({"forward": 5.0})
    )
