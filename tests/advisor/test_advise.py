from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from builders import (
    a_data_bound_run,
    a_healthy_run,
    a_loader,
    a_profile,
    a_run,
    a_site,
    even_samples,
    some_steps,
)

from stepscope.advisor import html, markdown
from stepscope.advisor.advice import SCHEMA, Advice, json_schema
from stepscope.advisor.advise import advise
from stepscope.advisor.causes import CAUSES
from stepscope.advisor.measure import NoStepsError
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import Profile, Run

KNOWLEDGE = load_knowledge()
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "advice.schema.json"
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e\n{x} {data.wait_share} %s"
PROFILES = [a_profile(), a_healthy_run(), a_data_bound_run(), a_run({"forward": 5.0})]


def advice_for(profile: Profile, **thresholds: float) -> Advice:
    return advise(profile, KNOWLEDGE, "run.json", thresholds)


def test_a_run_with_nothing_to_repair_is_healthy() -> None:
    advice = advice_for(a_healthy_run())

    assert advice.verdict.healthy
    assert advice.verdict.cause == "compute.arithmetic"
    assert advice.verdict.category == "compute"
    assert advice.verdict.share > 0.9
    assert {finding.cause for finding in advice.findings} == {"compute.arithmetic"}
    # What changes the computation is offered, not demanded.
    assert [step for step in advice.plan if step.kind == "exact"] == []
    assert "Nothing to fix" in advice.verdict.sentence


def test_a_loader_that_cannot_keep_up_is_found_and_relieved() -> None:
    advice = advice_for(a_data_bound_run())

    verdict, first = advice.verdict, advice.plan[0]
    assert not verdict.healthy
    assert verdict.cause == "cpu_preprocessing.transform"
    assert verdict.share == pytest.approx(0.88 * 0.94)
    assert first.method == "sy-workers"
    assert first.predicted.speedup > 5
    assert first.predicted.assumes in verdict.sentence
    assert advice.findings[0].rule == "slow_transform"
    assert advice.findings[0].role == "root"
    assert {"fp-amp", "sy-threads", "sy-fuse"} & {useless.method for useless in advice.tempting}


def test_no_fraction_of_a_step_is_left_over_or_counted_twice() -> None:
    for profile in PROFILES:
        advice = advice_for(profile)
        assert sum(line.share for line in advice.breakdown) == pytest.approx(1, abs=1e-9)
        seconds = sum(line.seconds_per_step for line in advice.breakdown)
        assert seconds == pytest.approx(advice.step_seconds)
        shares = [line.share for line in advice.breakdown]
        assert shares == sorted(shares, reverse=True)


def test_every_rule_is_accounted_for_once() -> None:
    for profile in PROFILES:
        advice = advice_for(profile)
        unknown = [
            entry.what.removeprefix("rule ").partition(":")[0]
            for entry in advice.not_measured
            if entry.what.startswith("rule ")
        ]
        fired = [finding.rule for finding in advice.findings]
        silent = [rule.rule for rule in advice.not_fired]
        assert sorted([*fired, *silent, *unknown]) == sorted(KNOWLEDGE.rules)
        assert all(rule.margin >= 0 for rule in advice.not_fired)
        assert all(finding.margin >= 0 for finding in advice.findings)


def test_the_places_of_the_bottleneck_are_named() -> None:
    sites = [a_site(line=7, transform="Blur", samples=90), a_site(line=9, samples=10)]

    advice = advice_for(a_data_bound_run(loader={"sites": sites}))

    assert [place.line for place in advice.verdict.places] == [7, 9]
    assert advice.verdict.places[0].transform == "Blur"
    found = next(f for f in advice.findings if f.rule == "slow_transform")
    assert found.places == advice.verdict.places
    assert [part.name for part in advice.transforms] == ["Blur"]
    assert advice_for(a_data_bound_run()).verdict.places == []


def test_a_hand_written_update_is_an_optimizer_to_be_found() -> None:
    profile = a_run(
        {"forward": 20.0, "backward": 20.0, "after_backward": 60.0},
        sites=[a_site("after_backward", line=12)],
    )

    verdict = advice_for(profile).verdict

    assert verdict.cause == "compute.optimizer"
    assert [place.line for place in verdict.places] == [12]


def test_more_workers_are_not_advised_where_the_cores_are_full() -> None:
    full = a_data_bound_run(
        cores=1, steps={"cpu": 12.0, "process_cpu": 15.0, "wait_cpu": 0.5, "run_delay": 2.0}
    )

    advice = advice_for(full)

    assert not [step for step in advice.plan if step.method == "sy-workers"]
    assert not advice.verdict.healthy
    assert advice.verdict.cause == "cpu_preprocessing.transform"


def test_what_is_on_already_is_said_and_not_advised() -> None:
    profile = a_data_bound_run(loader={"persistent_workers": True, "pin_memory": True})

    advice = advice_for(profile)

    on = {method.method for method in advice.already_on}
    assert {"sy-persistent", "sy-pin"} <= on
    advised = {r.method for finding in advice.findings for r in finding.recommendations}
    assert not on & (advised | {step.method for step in advice.plan})


def test_the_plan_multiplies_up() -> None:
    for profile in PROFILES:
        product = 1.0
        for step in advice_for(profile).plan:
            product *= step.predicted.speedup
            assert step.cumulative == pytest.approx(product)
            assert step.predicted.low <= step.predicted.speedup <= step.predicted.high
            assert step.next_cause in CAUSES


@pytest.mark.parametrize(
    ("ended", "words"), [("running", "Incomplete"), ("exception", "OutOfMemoryError")]
)
def test_an_incomplete_run_is_said_in_the_notes(ended: Any, words: str) -> None:
    run = Run(
        started_at="2026-01-15T10:00:00Z",
        wall_ns=10**10,
        ended=ended,
        exception="OutOfMemoryError" if ended == "exception" else None,
    )

    notes = advice_for(a_healthy_run(run=run)).notes

    assert [note for note in notes if words in note]
    assert not [note for note in advice_for(a_healthy_run()).notes if words in note]


def test_what_limits_the_conclusions_is_said_in_the_notes() -> None:
    few = advice_for(a_profile(steady=some_steps(20, 10))).notes
    neighbours = even_samples(system_busy_cores=6.0, job_busy_cores=1.0, steal_cores=0.0)
    crowded = advice_for(a_healthy_run(samples=neighbours)).notes
    lost = a_data_bound_run()
    lost.loaders[0].workers[0].lost = 17

    assert [note for note in few if note.startswith("Only 10 steps")]
    assert [note for note in crowded if "Other programs used 5.0 of 4" in note]
    assert [note for note in advice_for(lost).notes if note.startswith("17 batch records")]
    assert "a problem" in advice_for(a_healthy_run(problems=["a problem"])).notes


def test_signals_that_were_missing_are_named_with_a_remedy() -> None:
    bare = a_run({"forward": 5.0})
    bare.environment.calibration = None

    missing = {entry.what: entry for entry in advice_for(bare).not_measured}

    expected = {"operators", "waiting for a core", "inside of the data pipeline"}
    assert expected | {"the machine's own speed"} <= set(missing)
    assert all(entry.reason and entry.remedy for entry in missing.values())


def test_the_limit_of_health_can_be_moved() -> None:
    assert not advice_for(a_data_bound_run()).verdict.healthy
    assert advice_for(a_data_bound_run(), healthy_gain=100.0).verdict.healthy


def test_what_other_programs_take_is_found_but_is_no_fault_of_the_run() -> None:
    starved = a_healthy_run(
        steps={"cpu": 70.0, "process_cpu": 150.0, "wait_cpu": 0.3, "run_delay": 27.0},
        samples=even_samples(system_busy_cores=5.5, job_busy_cores=1.5, steal_cores=0.0),
        cores=8,
    )

    advice = advice_for(starved)

    finding = next(f for f in advice.findings if f.rule == "foreign_load")
    free = next(r for r in finding.recommendations if r.method == "sy-free-cores")
    assert free.predicted is not None
    assert free.predicted.speedup > 1.2
    assert "sy-free-cores" not in {step.method for step in advice.plan}
    assert advice.verdict.healthy


def test_thresholds_change_which_rules_fire() -> None:
    strict = advice_for(a_data_bound_run(), worthwhile_gain=50.0)

    assert "slow_transform" not in {finding.rule for finding in strict.findings}
    assert "slow_transform" in {rule.rule for rule in strict.not_fired}


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(NoStepsError):
        advice_for(a_profile(warmup=some_steps(0, 2), steady=some_steps(2, 0)))


def test_hostile_text_survives_as_text() -> None:
    run = Run(
        started_at=HOSTILE, wall_ns=10**10, ended="exception", exception=HOSTILE, argv=[HOSTILE]
    )
    profile = a_data_bound_run(
        run=run,
        problems=[HOSTILE],
        loader={
            "collate_fn": HOSTILE,
            "dataset": HOSTILE,
            "start_method": HOSTILE,
            "sites": [a_site(file=HOSTILE, function=HOSTILE, transform=HOSTILE)],
        },
    )
    profile.environment.cpu_model = profile.environment.platform = HOSTILE
    profile.environment.variables = {"OMP_NUM_THREADS": HOSTILE}
    profile.steady.phases[HOSTILE] = profile.steady.phases.pop("forward")

    advice = advise(profile, KNOWLEDGE, HOSTILE)

    assert advice.facts["loader.collate_fn"] == HOSTILE
    assert msgspec.json.decode(msgspec.json.encode(advice), type=Advice) == advice
    assert "<script>alert" not in html.render(advice, profile)
    assert "<script>alert" not in markdown.render(advice)
    # Neither places nor formats in it were filled in.
    assert any("{data.wait_share} %s" in note for note in advice.notes)


def test_hostile_text_in_evidence_is_not_evaluated() -> None:
    collating = {"wall": 100.0, "cpu": 97.0, "collate": 90.0, "collate_cpu": 90.0}
    profile = a_data_bound_run(fetch=collating, loader={"collate_fn": HOSTILE})

    finding = next(f for f in advice_for(profile).findings if f.rule == "slow_collate")

    assert HOSTILE in finding.evidence


def test_several_loaders_and_strange_phases_do_not_confuse_it() -> None:
    profile = a_data_bound_run()
    profile.loaders.append(a_loader(training=False, workers=[]))
    profile.steady.phases[""] = [0] * 100

    assert advice_for(profile).verdict == advice_for(a_data_bound_run()).verdict


def test_the_same_profile_gives_the_same_advice() -> None:
    assert advice_for(a_profile()) == advice_for(a_profile())


@pytest.mark.parametrize("profile", PROFILES)
def test_the_document_keeps_its_contract(profile: Profile) -> None:
    document = msgspec.json.decode(msgspec.json.encode(advice_for(profile)))

    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    validator.validate(document)
    assert next(iter(document)) == "schema"
    assert document["schema"] == SCHEMA
    assert {"category", "cause", "healthy", "sentence", "share", "places"} <= set(
        document["verdict"]
    )
    assert {"plan", "findings", "not_fired", "not_measured", "environment"} <= set(document)
    assert all(
        {"cause", "seconds_per_step", "share", "low", "high"} <= set(line)
        for line in document["breakdown"]
    )


def test_a_broken_document_does_not_fit_the_schema() -> None:
    document = msgspec.json.decode(msgspec.json.encode(advice_for(a_profile())))
    del document["verdict"]["cause"]

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(document)


def test_the_schema_file_is_up_to_date() -> None:
    # python -c "import json; from stepscope.advisor.advice import json_schema as s;
    #            print(json.dumps(s(), indent=2))" > docs/advice.schema.json
    generated = json.dumps(json_schema(), indent=2) + "\n"

    assert SCHEMA_FILE.read_text(encoding="utf-8") == generated
    jsonschema.Draft202012Validator.check_schema(json_schema())
