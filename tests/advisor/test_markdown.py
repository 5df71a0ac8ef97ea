from __future__ import annotations

from builders import a_finding, a_place, a_recommendation, a_verdict, an_advice

from stepscope.advisor.markdown import render


def test_holds_verdict_breakdown_plan_and_findings() -> None:
    text = render(an_advice())

    assert text.startswith("### stepscope: CPU preprocessing\n")
    assert "**56 % of each 48.2 ms step" in text
    assert "| forward and backward arithmetic | 11.6 ms | 24 % | 22 % to 26 % |" in text
    assert "1. **Use 6 loader workers instead of 2** (exact, minutes): predicted 1.84x" in text
    assert "measured 1.79x (1.71x to 1.86x)" in text
    assert text.index("Two loader workers cannot") < text.index("Matrix products run")
    assert text.index("Matrix products run") < text.index("The training process waits")
    assert text.count("<details>") == text.count("</details>") == 1


def test_leaves_out_what_is_empty() -> None:
    verdict = a_verdict(
        category="compute",
        cause="compute.arithmetic",
        healthy=True,
        sentence="Fine.",
        share=0.9,
        places=[],
    )

    text = render(
        an_advice(
            verdict=verdict, breakdown=[], plan=[], tempting=[], notes=[], findings=[], left=""
        )
    )

    assert text.startswith("### stepscope: healthy\n\n**Fine.**\n\n<sub>")


def test_names_the_places_where_the_cause_was_seen() -> None:
    finding = a_finding(places=[a_place(), a_place(line=7, function="<b>", transform=None)])

    text = render(an_advice(findings=[finding]))

    assert "Where: train.py:42 in \\_\\_call\\_\\_, transform Blur" in text
    assert "Where" not in render(an_advice(findings=[a_finding(places=[])]))
    assert "<b>" not in text


def test_text_of_the_profile_is_inert() -> None:
    hostile = "<script>alert(1)</script> | [x](javascript:y) `a`\n# heading @someone"

    text = render(an_advice(notes=[hostile], findings=[a_finding(title=hostile, evidence=hostile)]))

    assert "<script" not in text
    assert "\n# heading" not in text
    assert "@someone" not in text
    assert "[x](" not in text
    assert r"\|" in text


def test_code_cannot_leave_its_fence() -> None:
    fix = a_recommendation(how_to="x = '''\n```\n</details>\n'''")

    text = render(an_advice(findings=[a_finding(recommendations=[fix])]))

    assert "````python\n" in text
    assert "'''\n````" in text


def test_field_knowledge_is_never_called_a_paper() -> None:
    fixes = [a_recommendation(method=tag, effect_provenance=tag) for tag in "MFD"]

    text = render(an_advice(findings=[a_finding(recommendations=fixes)]))

    assert ", paper)" not in text
    assert "field knowledge" in text
    assert "derived by stepscope" in text


def test_what_a_comment_cannot_hold_is_left_out() -> None:
    findings = [a_finding(rule=f"rule{i}", evidence="x" * 9_000) for i in range(12)]

    text = render(an_advice(findings=findings))

    assert len(text) < 65_536
    assert "7 findings left out here" in text
    assert text.count("</details>") == 1
