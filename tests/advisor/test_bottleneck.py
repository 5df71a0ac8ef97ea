from __future__ import annotations

from dataclasses import replace

from builders import some_stages

from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.contention import Contention


def test_the_bottleneck_is_what_gains_most_not_what_takes_most() -> None:
    # 60 ms of preparing are hidden behind four workers; 20 ms of arithmetic are not.
    hidden = some_stages(
        workers=4,
        main={"compute.arithmetic": 0.020, "host.gc": 0.004},
        fetch_cpu={"cpu_preprocessing.transform": 0.060},
    )

    assert bottleneck(hidden) == "compute.arithmetic"


def test_among_equal_gains_the_larger_time_is_the_bottleneck() -> None:
    # Both stages must be relieved together: no single removal gains.
    balanced = some_stages(
        workers=1,
        cores=64.0,
        receive=0.0,
        main={"compute.arithmetic": 0.050},
        fetch_cpu={"cpu_preprocessing.transform": 0.050},
    )

    assert bottleneck(balanced) == "compute.arithmetic"
    assert bottleneck(some_stages(main={}, fetch_cpu={}, receive=0.0)) == "host.python"


def test_arithmetic_short_of_cores_is_short_of_cores() -> None:
    starved = some_stages(
        workers=0,
        main={"compute.arithmetic": 0.020, "compute.optimizer": 0.0095},
        fetch_cpu={},
        receive=0.0,
        contention_main=Contention(1.0, 2.0),
    )

    assert bottleneck(starved) == "cpu_preprocessing.core_starvation"


def test_rare_long_stops_count_for_the_bottleneck() -> None:
    spikes = (0.0,) * 63 + (64.0,)
    stopped = some_stages(
        workers=8,
        main={"compute.arithmetic": 0.015, "host.validation": 0.020},
        main_shapes={"host.validation": spikes},
    )

    assert bottleneck(stopped) == "host.validation"


def test_what_others_take_of_the_cores_is_not_arithmetics() -> None:
    # 10 ms of a step of 23 is arithmetic, and all of the 13 is what others add to that.
    taken = some_stages(
        workers=0,
        main={"compute.arithmetic": 0.009, "host.python": 0.001},
        fetch_cpu={},
        receive=0.0,
        contention_main=Contention(fixed=1.3),
    )

    assert bottleneck(taken) == "cpu_preprocessing.core_starvation"
    mine = replace(taken, crowding={"host.python": 0.9})
    assert bottleneck(mine) == "host.python"  # threads of the program itself
    assert bottleneck(taken.without("cpu_preprocessing.core_starvation")) == "compute.arithmetic"
