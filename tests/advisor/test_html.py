from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from builders import (
    a_finding,
    a_histogram,
    a_loader,
    a_place,
    a_profile,
    a_recommendation,
    a_verdict,
    an_advice,
    some_steps,
)
from msgspec.structs import replace

from stepscope.advisor.advice import Advice, Alternative, NotFired, TransformTime, Useless
from stepscope.advisor.html import render
from stepscope.profiler.format import Configuration, Mark, Operator, Profile, Run, Samples, Window

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "br", "link", "img"}
BLOCKS = ("style", "script")


class Page(HTMLParser):
    """What the tests ask of a page: its ids, links, attributes and text; fails on bad nesting.

    What stands in scripts and styles is kept apart.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.blocks: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag in BLOCKS:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in BLOCKS:
            self.blocks[-1] += data
        else:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [v for t, n, v in self.attributes if n == name and tag in {None, t}]


def page(advice: Advice | None = None, profile: Profile | None = None) -> Page:
    return Page(render(advice or an_advice(), profile or a_profile()))


def test_the_verdict_comes_first_and_the_sections_follow_in_order() -> None:
    text = page().text

    places = [
        text.index(part)
        for part in (
            "56 % of each 48.2 ms step goes to preparing samples",
            "One step of 48.2 ms, largest part first",
            "Use 6 loader workers instead of 2",
            "The step waits 30.8 ms",
            "Fused optimizer",
            "Pinned host memory",
            "Distribution of 200 steady steps",
            "worker 1",
            "aten::convolution_backward",
            "Checkpoints are written too often",
            "record the run on the machine that trains",
            "OMP_NUM_THREADS",
            "How noisy this is",
            "A share is not a gain",
        )
    ]
    assert places == sorted(places)


def test_the_places_of_a_cause_and_the_time_of_the_transforms_are_named() -> None:
    found = page()

    assert "train.py:42 in __call__, transform Blur (81 % of it)" in found.text
    assert "/home/user/train.py" in found.values("title", "code")
    assert "Making a sample" in found.text
    assert "100 looks" in found.text
    nowhere = page(
        an_advice(verdict=a_verdict(places=[]), findings=[a_finding(places=[])], transforms=[])
    )
    assert "Where:" not in nowhere.text
    assert "transforms" not in nowhere.values("id")


def test_every_finding_has_an_anchor_that_is_linked() -> None:
    found = page()

    targets = {href[1:] for href in found.values("href") if href.startswith("#")}
    ids = Counter(found.values("id"))
    assert {"finding-too-few-workers", "finding-fp32-arithmetic", "finding-input-wait"} <= targets
    assert targets <= set(ids)
    assert set(ids.values()) == {1}


def test_ids_stay_valid_and_distinct_whatever_the_rules_are_called() -> None:
    names = ["a b", "a/b", "a-b", HOSTILE, ""]

    ids = page(an_advice(findings=[a_finding(rule=name) for name in names])).values("id")

    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z][\w-]*", name) for name in ids)


def test_root_causes_come_before_contributing_ones_before_symptoms() -> None:
    anchors = page().values("id", "article")

    assert anchors == ["finding-too-few-workers", "finding-fp32-arithmetic", "finding-input-wait"]


def test_a_method_is_described_once() -> None:
    twice = [a_finding(rule=name) for name in ("first", "second")]

    text = page(an_advice(findings=twice, plan=[])).text

    assert text.count("num_workers=6") == 1
    assert "described above" in text


def test_text_of_the_profile_is_escaped_everywhere() -> None:
    fix = a_recommendation(
        title=HOSTILE, how_to=HOSTILE, effect=HOSTILE, effect_source=HOSTILE, citations=[HOSTILE]
    )
    advice = an_advice(
        findings=[
            a_finding(
                title=HOSTILE,
                evidence=HOSTILE,
                cause=HOSTILE,
                references=[HOSTILE],
                recommendations=[fix],
                places=[a_place(file=HOSTILE, function=HOSTILE, transform=HOSTILE)],
            )
        ],
        transforms=[TransformTime(name=HOSTILE, samples=1, share=1.0, seconds_per_item=1.0)],
        tempting=[Useless(method="x", title=HOSTILE, reason=HOSTILE)],
        not_fired=[
            NotFired(rule=HOSTILE, title=HOSTILE, cause=HOSTILE, margin=0.1, reason=HOSTILE)
        ],
        environment={HOSTILE: HOSTILE},
        facts={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        source=HOSTILE,
    )
    profile = a_profile(
        run=Run(
            started_at=HOSTILE, wall_ns=1, ended="exception", exception=HOSTILE, argv=[HOSTILE]
        ),
        marks=[Mark(kind=HOSTILE, step=30, time_ns=0, detail=HOSTILE)],
        loaders=[a_loader(dataset=HOSTILE, transforms=[HOSTILE])],
        problems=[HOSTILE],
        samples=Samples(time_ns=[0, 1], columns={HOSTILE: [1.0, 2.0]}),
    )
    profile.environment.variables = {"X": HOSTILE}

    found = page(advice, profile)

    assert (found.tags["script"], found.tags["img"]) == (2, 0)
    assert json.loads(found.blocks[1])["step-time"]["marks"][0][1] == HOSTILE
    assert not set("<>&") & set(found.blocks[1])
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") >= 18


def test_loads_nothing_and_runs_only_its_own_script() -> None:
    text = render(an_advice(), a_profile())
    found = Page(text)

    assert found.tags["link"] == found.tags["iframe"] == 0
    assert not found.values("src")
    assert not found.values("style")
    assert all(href.startswith(("#", "https://")) for href in found.values("href"))
    assert {tag for tag, name, _ in found.attributes if name == "href"} == {"a"}
    assert not re.search(r"url\(|@import", text)
    style, _, script = (hashed(block) for block in found.blocks)
    assert found.values("content", "meta")[0] == (
        f"default-src 'none'; script-src {script}; style-src {style}; "
        "base-uri 'none'; form-action 'none'"
    )


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_chart_library_is_the_release_with_its_licence() -> None:
    script = page().blocks[2]

    assert "Copyright (c) 2022 Leon Sorokin" in script
    assert not re.search(r"eval\(|new Function|</|innerHTML", script)
    library = files("stepscope.templates").joinpath("uplot.min.js").read_bytes()
    assert b"(v1.6.32)" in library[:80]
    assert hashlib.sha256(library).hexdigest() == (
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    )


def test_only_https_addresses_and_arxiv_numbers_become_links() -> None:
    references = [
        "javascript:alert(1)",
        "http://plain.example",
        "arXiv:2210.06640",
        "https://a.example/b.",
    ]

    hrefs = page(an_advice(findings=[a_finding(references=references, recommendations=[])])).values(
        "href"
    )

    assert [href for href in hrefs if not href.startswith("#")] == [
        "https://arxiv.org/abs/2210.06640",
        "https://a.example/b",
    ]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            Run(started_at="t", wall_ns=1, ended="exception", exception="OutOfMemoryError"),
            "OutOfMemoryError",
        ),
        (Run(started_at="t", wall_ns=1, ended="running"), "was killed"),
    ],
)
def test_an_incomplete_run_is_said_loudly(run: Run, words: str) -> None:
    text = page(profile=a_profile(run=run)).text

    assert "This run did not finish." in text
    assert words in text
    assert "did not finish" not in page().text


def test_a_bare_healthy_profile_leaves_out_what_it_has_no_data_for() -> None:
    nothing = some_steps(0, 0)
    verdict = a_verdict(
        category="compute",
        cause="compute.arithmetic",
        healthy=True,
        sentence="Fine.",
        share=0.9,
        places=[],
    )
    lists = ["breakdown", "plan", "findings", "tempting", "already_on", "not_fired", "not_measured"]
    lists.append("transforms")
    empty: dict[str, Any] = {name: [] for name in lists}
    advice = an_advice(**empty, verdict=verdict, facts={}, notes=[], environment={}, left="")
    profile = a_profile(
        warmup=nothing,
        steady=nothing,
        step_time=a_histogram(nothing),
        loaders=[],
        samples=Samples(time_ns=[], columns={}),
        window=None,
        marks=[],
        configuration=Configuration(intra_op_threads=1, inter_op_threads=1),
    )

    found = page(advice, profile)

    assert "Healthy" in found.text
    assert "No method is predicted" in found.text
    assert "No rule fired" in found.text
    assert not {"breakdown", "timeline", "workers", "operators", "not-fired"} & set(
        found.values("id")
    )


def test_a_long_run_stays_a_small_page() -> None:
    long = some_steps(20, 4096)
    operators = [Operator(name=f"aten::op{i}", calls=1, self_cpu_ns=i) for i in range(500)]
    profile = a_profile(
        steady=long,
        step_time=a_histogram(long),
        marks=[Mark(kind="gc", step=20 + i, time_ns=i, duration_ns=i) for i in range(2000)],
        samples=Samples(
            time_ns=list(range(4000)),
            columns={f"gpu{i}_w": [float(j) for j in range(4000)] for i in range(8)},
        ),
        window=Window(
            first_step=1,
            steps=3,
            wall_ns=1,
            phases={},
            operators=operators,
        ),
    )

    text = render(an_advice(), profile)

    assert len(text.encode()) < 1_500_000
    assert text.count("aten::op") == 15


def test_tables_are_captioned_and_scoped() -> None:
    found = page()

    assert found.tags["caption"] == found.tags["table"]
    assert len(found.values("scope", "th")) == found.tags["th"]


def test_the_same_input_gives_the_same_page() -> None:
    assert render(an_advice(), a_profile()) == render(an_advice(), a_profile())


def test_the_plan_tells_effort_risk_and_what_does_the_same_job() -> None:
    other = Alternative(method="fp-fp16", title="Half precision", predicted=None)
    plan = [
        replace(step, alternatives=[other], kappa=0.5, left_share=0.42) for step in an_advice().plan
    ]

    page = render(an_advice(plan=plan), a_profile())

    assert "Does the same job: Half precision" in page
    assert "they have taken part of its gain" in page
    assert "at most 42" in page
    assert "by effort and by what they risk" in page
    assert "bitwise-neutral" in page
    assert "Methods that compute with fewer bits" in page
