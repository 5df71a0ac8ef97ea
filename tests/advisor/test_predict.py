from __future__ import annotations

import random
from typing import Any

import pytest
from builders import (
    CALIBRATION,
    a_measurement,
    a_profile,
    a_run,
    bursty_stages,
    some_ceilings,
    some_stages,
)

from stepscope.advisor.advice import Prediction
from stepscope.advisor.knowledge import Predictor
from stepscope.advisor.outcome import Outcome
from stepscope.advisor.predict import (
    DEEP_QUEUE,
    PREDICTORS,
    RARE_SHARE,
    gain,
    model_error,
    outcome,
    predict,
)
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Calibration, Gpu, Optimizer, Profile

TRANSFORM, ARITHMETIC = "cpu_preprocessing.transform", "compute.arithmetic"
OPTIMIZER, BANDWIDTH = "compute.optimizer", "memory.bandwidth"
STORAGE = "data_loading.storage"
GPU = Gpu(index=0, name="A GPU", memory_bytes=10**10)


def trainer_bound(**changes: Any) -> Stages:
    """No loader: each millisecond saved of 20 ms is gained."""
    defaults: dict[str, Any] = {
        "workers": 0,
        "main": {ARITHMETIC: 0.010, BANDWIDTH: 0.004, OPTIMIZER: 0.006},
        "fetch_cpu": {},
        "receive": 0.0,
    }
    return some_stages(**defaults | changes)


def a_machine(**calibration: Any) -> Profile:
    """A run on a processor with 3e6 parameters under AdamW."""
    profile = a_run({"forward": 20.0}, cores=8)
    fields = {name: getattr(CALIBRATION, name) for name in Calibration.__struct_fields__}
    profile.environment.calibration = Calibration(**fields | calibration)
    profile.configuration.optimizers = [
        Optimizer(
            class_name="AdamW", parameters=3_000_000, tensors=10, state_tensors_per_parameter=2
        )
    ]
    return profile


def predicted(
    name: Any,
    *causes: str,
    stages: Stages | None = None,
    profile: Profile | None = None,
    spread: float = 0.0,
) -> Prediction:
    stages = stages or trainer_bound()
    predictor = Predictor(name=name, causes=list(causes))
    change = outcome(predictor, profile or a_machine(), stages)
    assert change is not None
    return predict(change, lambda s: s, a_measurement(stages, spread))


def test_remove_takes_the_causes_away() -> None:
    found = predicted("remove", OPTIMIZER, BANDWIDTH)

    assert found.speedup == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0 / model_error(2.0))
    assert found.high == pytest.approx(2.0 * model_error(2.0))
    assert found.basis == "model"


def test_at_most_promises_half_and_knows_only_the_bounds() -> None:
    found = predicted("at_most", ARITHMETIC)

    assert found.speedup == pytest.approx(20 / 15)
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(2.0 * model_error(2.0))
    assert found.basis == "bound"


def test_rarer_goes_on_until_the_cause_costs_a_hundredth() -> None:
    # 5 of 19 ms: 26.3 times less often would be 1 %, so 27 times.
    assert RARE_SHARE == 0.01
    stages = trainer_bound(main={ARITHMETIC: 0.014, OPTIMIZER: 0.005})

    found = predicted("rarer", OPTIMIZER, stages=stages)

    assert found.speedup == pytest.approx(19 / (14 + 5 / 27))
    assert "27 times less often" in found.assumes


@pytest.mark.parametrize("seconds", [{}, {"host.gc": 0.0001}])
def test_what_is_rare_already_cannot_become_rarer(seconds: dict[str, float]) -> None:
    stages = trainer_bound(main={ARITHMETIC: 0.014, **seconds})

    assert predicted("rarer", "host.gc", stages=stages).speedup == pytest.approx(1.0)


def test_smoothing_is_a_deeper_queue() -> None:
    stages = bursty_stages()

    found = predicted("smooth", stages=stages)

    deeper = stages.with_prefetch(DEEP_QUEUE)
    assert found.assumes == f"prefetch_factor={DEEP_QUEUE}"
    assert found.speedup == pytest.approx(stages.seconds() / deeper.seconds())
    assert found.speedup > 1.2
    # At best what is finished may overtake as well.
    best = stages.seconds() / deeper.with_any_order().seconds()
    assert found.high == pytest.approx(max(best, found.speedup) * model_error(best))
    assert found.basis == "model"


def test_smoothing_gains_nothing_where_there_is_no_unevenness() -> None:
    assert predicted("smooth", stages=some_stages()).high == pytest.approx(1.0)
    for stages in (trainer_bound(), some_stages(prefetch=DEEP_QUEUE)):
        assert outcome(Predictor(name="smooth"), a_machine(), stages) is None


def test_in_any_order_finished_batches_overtake_a_slow_one() -> None:
    stages = bursty_stages()

    found = predicted("any_order", stages=stages)

    assert found.assumes == "in_order=False"
    assert found.speedup == pytest.approx(stages.seconds() / 0.014, rel=0.03)
    assert found.speedup > 1.2


@pytest.mark.parametrize("changes", [{"workers": 0}, {"workers": 1}, {"in_order": False}])
def test_the_order_matters_only_to_several_workers_that_keep_it(changes: dict[str, Any]) -> None:
    assert outcome(Predictor(name="any_order"), a_machine(), some_stages(**changes)) is None


def test_workers_go_to_the_best_number() -> None:
    stages = some_stages(cores=32.0)  # 88 ms of making against 17.5 ms of training

    found = predicted("workers", stages=stages, profile=a_profile())

    best = stages.best_workers()
    assert found.assumes == f"num_workers={best}"
    assert found.speedup == pytest.approx(0.044 / max(0.0175, 0.088 / best))
    assert found.low == pytest.approx(found.speedup / model_error(found.speedup))


def test_workers_gain_nothing_where_the_cores_are_full() -> None:
    stages = some_stages(cores=2.0, workers=4)

    found = predicted("workers", stages=stages, profile=a_profile())

    assert found.speedup == pytest.approx(1.0, abs=0.03)


def test_at_worst_storage_serves_no_more_workers_than_it_does_now() -> None:
    reading = some_stages(cores=32.0, fetch_cpu={}, fetch_blocked={STORAGE: 0.088})

    found = predicted("workers", stages=reading, profile=a_profile())

    assert found.speedup == pytest.approx(0.044 / 0.0176, rel=0.03)
    assert found.low == pytest.approx(1.0)


def test_where_sharing_was_tried_there_is_no_worst_case() -> None:
    reading = some_stages(
        cores=32.0, fetch_cpu={}, fetch_blocked={STORAGE: 0.088}, serial_share=0.25
    )

    found = predicted("workers", stages=reading, profile=a_profile(ceilings=some_ceilings()))

    assert found.speedup == pytest.approx(2.0)  # 22 of 88 ms one at a time
    assert found.low == pytest.approx(2.0 / model_error(2.0))


@pytest.mark.parametrize("name", ["workers", "serial"])
def test_workers_need_a_loader(name: Any) -> None:
    predictor = Predictor(name=name)

    assert outcome(predictor, a_machine(), trainer_bound()) is None


def test_serial_loading_is_for_those_who_have_workers() -> None:
    tiny = some_stages(
        workers=4,
        main={ARITHMETIC: 0.004},
        fetch_cpu={TRANSFORM: 0.0001},
        receive=0.002,
    )

    assert predicted("serial", stages=tiny).speedup == pytest.approx(6 / 4.1)
    assert outcome(Predictor(name="serial"), a_machine(), tiny.with_workers(0)) is None


def test_threads_divide_arithmetic_and_bandwidth_at_best_by_their_ratio() -> None:
    found = predicted("threads", stages=trainer_bound(threads=2, cores=8.0))

    # Ratio 4: half of the ideal scaling is 2.5; the optimizer's 6 ms stay.
    assert found.speedup == pytest.approx(20 / (14 / 2.5 + 6))
    best = 20 / (14 / 4 + 6)
    assert found.high == pytest.approx(best * model_error(best))
    assert found.low == pytest.approx(1.0)
    assert found.basis == "bound"
    assert "set_num_threads(8)" in found.assumes


def test_more_threads_crowd_out_the_workers() -> None:
    # One thread leaves a core to each of three workers; four threads leave none.
    stages = some_stages(
        workers=3, cores=4.0, width=1.0, main={ARITHMETIC: 0.028}, fetch_cpu={TRANSFORM: 0.084}
    )

    # Ratio 4: half of the ideal scaling alone would be 2.5.
    assert predicted("threads", stages=stages).speedup < 1.1


@pytest.mark.parametrize("threads", [8, 9, 16])
def test_no_threads_are_left_to_add(threads: int) -> None:
    stages = trainer_bound(threads=threads, cores=8.0)

    assert outcome(Predictor(name="threads"), a_machine(), stages) is None


def test_a_fused_optimizer_runs_at_the_memory_bandwidth() -> None:
    # AdamW: (2 * 2 + 3) values of 4 bytes for 3e6 parameters at 18 GB/s, plus one dispatch.
    floor = 3e6 * 4 * 7 / 18e9 + 2100e-9

    found = predicted("fused_optimizer")

    assert found.speedup == pytest.approx(20 / (14 + 1e3 * floor))


def test_a_fused_optimizer_is_never_predicted_to_be_slower() -> None:
    slow_memory = a_machine(copy_bytes_per_s=1e6)

    assert predicted("fused_optimizer", profile=slow_memory).speedup == pytest.approx(1.0)


def test_without_calibration_only_the_optimizers_bounds_are_known() -> None:
    profile = a_machine()
    profile.environment.calibration = None

    found = predicted("fused_optimizer", profile=profile)

    assert found.basis == "bound"
    assert found.high == pytest.approx(20 / 14 * model_error(20 / 14))


@pytest.mark.parametrize("ratio", [2.0, 0.8])
def test_bf16_goes_as_the_matrix_products_measured_here(ratio: float) -> None:
    profile = a_machine(gemm_bf16_flops=ratio * CALIBRATION.gemm_fp32_flops)

    found = predicted("bf16", profile=profile)

    assert found.speedup == pytest.approx(20 / (10 + 10 / ratio))
    assert f"{ratio:.2f} times" in found.assumes


@pytest.mark.parametrize("missing", ["rate", "calibration", "gpu"])
def test_bf16_has_only_bounds_where_its_rate_was_not_measured(missing: str) -> None:
    profile = a_machine(gemm_bf16_flops=None if missing == "rate" else 4e11)
    if missing == "calibration":
        profile.environment.calibration = None
    if missing == "gpu":
        profile.environment.gpus = [GPU]

    found = predicted("bf16", profile=profile)

    assert found.basis == "bound"
    assert found.high == pytest.approx(20 / 6 * model_error(20 / 6))
    assert found.low == pytest.approx(1.0)


def test_literature_predicts_nothing() -> None:
    assert outcome(Predictor(name="literature"), a_machine(), trainer_bound()) is None


@pytest.mark.parametrize("name", sorted(set(PREDICTORS) - {"literature"}))
@pytest.mark.parametrize("seed", range(12))
def test_the_interval_contains_the_prediction(name: Any, seed: int) -> None:
    chance = random.Random(seed)
    causes = [TRANSFORM, ARITHMETIC, BANDWIDTH, OPTIMIZER]
    stages = some_stages(
        workers=chance.choice([1, 2, 8]),
        cores=chance.choice([1.0, 2.0, 16.0]),
        main={cause: chance.random() for cause in causes[1:]},
        fetch_cpu={TRANSFORM: chance.random()},
        fetch_blocked={STORAGE: chance.random()},
        fetch_shape=chance.choice([(1.0,), (0.5, 0.5, 2.0), (0.0, 2.0)]),
        factor=chance.uniform(0.8, 1.2),
    )
    profile = a_run({"forward": 20.0}, workers=2, fetch={"wall": 20.0, "cpu": 20.0})
    change = outcome(Predictor(name=name, causes=chance.sample(causes, 2)), profile, stages)
    if name in (
        "fewer_threads",
        "clock",
        "link",
        "even_links",
        "joined_messages",
        "no_barriers",
        "no_pickles",
    ):
        assert change is None  # nothing was tried, there is no device, and no other rank
        return
    if change is None:
        assert name in ("threads", "any_order")
        assert stages.cores <= stages.threads if name == "threads" else stages.workers < 2
        return

    found = predict(change, lambda s: s, a_measurement(stages, spread=chance.random()))

    assert 0 < found.low <= found.speedup <= found.high
    assert found.assumes
    assert found.basis in {"model", "bound"}


def test_steps_that_vary_widen_the_interval() -> None:
    calm = predicted("remove", TRANSFORM, stages=some_stages())
    spread = predicted("remove", TRANSFORM, stages=some_stages(), spread=0.4)

    assert calm.high == pytest.approx(calm.speedup * model_error(calm.speedup))
    assert spread.high > 1.2 * calm.high
    assert spread.low < 0.9 * calm.low


def test_the_worst_case_lowers_and_the_best_case_raises_the_bounds() -> None:
    change = Outcome(
        lambda s: s.scaled(ARITHMETIC, 0.5),
        "half",
        best=lambda s: s.without(ARITHMETIC),
        worst=lambda s: s.scaled(ARITHMETIC, 2.0),
    )

    found = predict(change, lambda s: s, a_measurement(trainer_bound()))

    assert found.speedup == pytest.approx(20 / 15)
    assert found.high == pytest.approx(2.0 * model_error(2.0))
    assert found.low == pytest.approx(20 / 30 / model_error(20 / 30))
    assert found.basis == "model"


def test_the_model_errs_more_in_what_it_says_of_larger_changes() -> None:
    assert model_error(1.0) == 1.0
    assert 1.0 < model_error(1.02) < model_error(1.2) < model_error(3.0)
    assert model_error(0.5) == pytest.approx(model_error(2.0))
    assert model_error(0.0) < 1e6


def test_a_step_without_any_time_left_gains_nothing_more() -> None:
    change = outcome(Predictor(name="remove", causes=[OPTIMIZER]), a_machine(), trainer_bound())
    assert change is not None

    def emptied(stages: Stages) -> Stages:
        return stages.without(ARITHMETIC, BANDWIDTH, OPTIMIZER)

    assert predict(change, emptied, a_measurement(trainer_bound())).speedup == 1.0


def test_a_prediction_stands_on_what_was_changed_before() -> None:
    stages = trainer_bound()
    change = outcome(Predictor(name="remove", causes=[OPTIMIZER]), a_machine(), stages)
    assert change is not None

    after = predict(change, lambda s: s.without(ARITHMETIC), a_measurement(stages))

    assert after.speedup == pytest.approx(10 / 4)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [(OPTIMIZER, 20 / 14 - 1), (TRANSFORM, 0.0), (ARITHMETIC, 1.0)],
)
def test_gain_is_the_speedup_without_a_cause(cause: str, expected: float) -> None:
    assert gain(trainer_bound(), cause) == pytest.approx(expected)


def test_relieving_what_does_not_hold_the_step_back_gains_nothing() -> None:
    # The workers need 44 ms, the trainer 17: its arithmetic is free.
    assert gain(some_stages(), ARITHMETIC) == pytest.approx(0)
    assert gain(some_stages(), TRANSFORM) == pytest.approx(44 / 17.5 - 1)
