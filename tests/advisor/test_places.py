from __future__ import annotations

from typing import Any

import pytest
from builders import MS, a_data_bound_run, a_profile, a_run, a_site

from stepscope.advisor.places import places_of, transform_times
from stepscope.advisor.wording import place
from stepscope.profiler.format import Profile, Site

TRANSFORM = "cpu_preprocessing.transform"


def fetching(*sites: Site, **changes: Any) -> Profile:
    return a_data_bound_run(loader={"sites": list(sites)}, **changes)


def lines(profile: Profile, cause: str) -> list[int]:
    return [found.line for found in places_of(profile).get(cause, [])]


@pytest.mark.parametrize(
    ("phase", "state", "cause"),
    [
        ("fetch", "running", TRANSFORM),
        ("fetch", "lock", TRANSFORM),
        ("fetch", "child", TRANSFORM),
        ("fetch", "file", "data_loading.storage"),
        ("fetch", "fault", "data_loading.storage"),
        ("fetch", "open", "data_loading.small_files"),
        ("fetch", "socket", "data_loading.network"),
        ("fetch", "sleep", "data_loading.network"),
        ("collate", "running", "cpu_preprocessing.collate"),
    ],
)
def test_a_fetcher_was_seen_at(phase: str, state: str, cause: str) -> None:
    found = places_of(fetching(a_site(phase, state)))

    assert set(found) == {cause}
    (only,) = found[cause]
    assert (only.file, only.line, only.function) == ("/home/user/train.py", 42, "blur")
    assert only.share == 1.0


@pytest.mark.parametrize(
    ("phase", "cause"),
    [
        ("optimizer", "compute.optimizer"),
        ("after_backward", "compute.optimizer"),
        ("sync", "host.sync"),
        ("logging", "host.logging"),
        ("checkpoint", "host.checkpoint"),
        ("validation", "host.validation"),
        ("compilation", "host.compilation"),
        ("transfer", "data_loading.host_to_device"),
        ("gc", "host.gc"),
        ("python", "host.python"),
    ],
)
def test_the_training_thread_was_seen_at(phase: str, cause: str) -> None:
    profile = a_run({"forward": 10.0}, sites=[a_site(phase), a_site("forward"), a_site("own")])

    assert set(places_of(profile)) == {cause}


def test_the_most_frequent_come_first_and_states_of_one_place_add_up() -> None:
    profile = fetching(
        a_site(line=1, samples=20),
        a_site(line=2, samples=25),
        a_site(line=1, samples=10, state="lock"),
        a_site(line=3, samples=44),
        a_site(line=4, samples=1),
    )

    found = places_of(profile)[TRANSFORM]

    assert [each.line for each in found] == [3, 1, 2]
    assert [each.share for each in found] == pytest.approx([0.44, 0.30, 0.25])


def test_what_holds_next_to_nothing_is_no_place_to_look() -> None:
    assert lines(fetching(a_site(line=1, samples=999), a_site(line=2, samples=1)), TRANSFORM) == [1]
    assert lines(fetching(a_site(file="")), TRANSFORM) == []
    assert places_of(a_run({"forward": 10.0})) == {}


def test_calls_that_were_timed_go_before_samples() -> None:
    sites = [
        a_site("sync", line=1, samples=900),
        a_site("sync", line=2, samples=0, calls=5, time_ns=30 * MS),
        a_site("sync", line=3, samples=0, calls=500, time_ns=10 * MS),
    ]

    found = places_of(a_run({"forward": 10.0}, sites=sites))["host.sync"]

    assert [(each.line, each.share) for each in found] == [(2, 0.75), (3, 0.25)]


def test_sites_of_a_validation_loader_are_not_those_of_training() -> None:
    profile = fetching(a_site(line=1))
    profile.loaders.append(a_profile().loaders[0])
    profile.loaders[1].training = False
    profile.loaders[1].sites = [a_site(line=9, samples=999)]

    assert lines(profile, TRANSFORM) == [1]


def test_the_time_of_a_sample_divides_over_the_transforms() -> None:
    # A batch of 64 takes 97 ms besides collating.
    profile = fetching(
        a_site(transform="Flip", samples=20),
        a_site(transform="Blur", samples=50, line=1),
        a_site(transform="Blur", samples=30, line=2, state="file"),
        a_site(transform=None, samples=400),
        a_site("collate", transform="stack", samples=400),
    )

    blur, flip = transform_times(profile)

    assert (blur.name, blur.samples, flip.name, flip.samples) == ("Blur", 80, "Flip", 20)
    assert [blur.share, flip.share] == pytest.approx([0.8, 0.2])
    assert blur.seconds_per_item == pytest.approx(0.097 / 64 * 0.8)


def test_rarely_seen_transforms_are_left_out() -> None:
    sites = [a_site(transform="Blur", samples=999), a_site(transform="Flip", samples=1)]

    assert [each.name for each in transform_times(fetching(*sites))] == ["Blur"]


@pytest.mark.parametrize(
    "profile", [a_run({"forward": 10.0}), fetching(), fetching(a_site()), a_profile(loaders=[])]
)
def test_where_no_transform_was_seen_none_is_named(profile: Profile) -> None:
    assert transform_times(profile) == []


def test_a_place_in_words() -> None:
    site = a_site(file="C:\\work\\train.py", transform="augment.Blur", function="__call__")

    (found,) = places_of(fetching(site))[TRANSFORM]

    assert place(found) == "train.py:42 in __call__, transform augment.Blur (100 % of it)"
