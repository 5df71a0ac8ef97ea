"""Files to begin a rule, method or combination of one's own with: `advise rules new`."""

from __future__ import annotations

RULE = """\
# A detection rule, begun by `advise rules new`.
#   advise rules lint DIR    tells what is left to do
#   advise rules test DIR    runs the fixtures below
# docs/rules.md explains every key; docs/knowledge/facts.md lists all facts and causes.
id: {id}
# What is wrong, in the present tense, without a full stop.
title: TODO what is wrong ({id})
# A leaf of the bottleneck tree, e.g. data_loading.storage or host.logging.
cause: cpu_preprocessing.transform  # TODO
# Comparisons of facts, combined by `all`, `any`, `not`. A comparison has `fact`, `op` and one of
# `threshold` (named below), `value`, `other` (another fact).
when:
  all:
    - {{fact: gain.cpu_preprocessing.transform, op: ">=", threshold: {threshold}}}  # TODO
thresholds:
  # The name is public: `--set {threshold}=0.2`. Rules that use the same name share its value.
  {threshold}:
    default: 0.1  # TODO
    reason: TODO why this limit and no other
# One sentence; {{fact}} is filled with the measured value and its unit.
evidence: >-
  TODO Without it the model predicts {{gain.cpu_preprocessing.transform}} more steps per second.
# What goes on, for someone who has not met it before.
why: >-
  TODO What goes on.
# Ids of methods, the most fitting first; at least one has to help the cause.
advise: [sy-workers]  # TODO
# Rules that name the root of what this one sees: suppressed_by: [other_rule]
references:
  - TODO where this can be read about; a link, or arXiv:1234.56789
# The rule's own tests: facts with which it fires, is silent, and cannot decide.
fixtures:
  fires:
    - facts: {{gain.cpu_preprocessing.transform: 0.5}}
      note: well past the limit
    - facts: {{gain.cpu_preprocessing.transform: 0.1}}
      note: exactly at it
  silent:
    - facts: {{gain.cpu_preprocessing.transform: 0.09}}
      note: just short of it
    - facts: {{gain.cpu_preprocessing.transform: 0.0}}
      note: far from it
  unknown:
    - facts: {{data.wait_share: 0.5}}
      note: the deciding fact was not measured
"""

METHOD = """\
# A method, begun by `advise rules new`; `advise rules lint DIR` tells what is left to do.
# It is proposed where a rule names it under `advise`. docs/rules.md explains every key.
id: {id}
# What to do, in the imperative.
name: TODO do this ({id})
component: systems  # TODO function, data, optimization or systems
subcomponent: TODO part of the component
actions: [replace]  # TODO of remove, restrict, reorder, replace, retrofit
kind: exact  # TODO exact: same mathematics; numerics: other rounding; algorithmic: anything else
# Only an algorithmic method says what becomes of time per step and of the number of steps:
#   cost: {{step: shorter, steps: as many}}   # shorter, as long, longer; fewer, as many, more
summary: >-
  TODO What it does, in two sentences.
# Causes that it relieves.
helps: [cpu_preprocessing.transform]  # TODO
# Causes that get worse: it is not proposed while one of them is the bottleneck.
loads: []
# Where it is possible at all; a fact that was not measured does not forbid it:
#   requires: {{fact: gpu.count, op: ">=", value: 1}}
# Where the program does it already:
#   already_on: {{fact: torch.autocast, op: "!=", value: "off"}}
# conflicts_with: [other-method]
# The gain comes from the model of the measured run, never from a number in this file.
predictor: {{name: at_most, causes: [cpu_preprocessing.transform]}}  # TODO
# Python that runs as it stands.
how_to: |
  import torch

  model = torch.nn.Linear(8, 2)  # TODO
  assert model(torch.ones(1, 8)).shape == (1, 2)
effort: hours  # TODO minutes, hours or days
quality_risk: >-
  TODO What may get worse in the trained model.
when_not: >-
  TODO Where it does not pay.
# What others report; shown beside the prediction, never used in it.
effect:
  text: TODO how much others gained, on what
  source: TODO who says so
  provenance: F  # TODO P paper, S stored source, M memory, F field knowledge, D derived
# citations:
#   - {{title: Its title, arxiv: "1234.56789"}}
provenance: F  # TODO where the rest of this file comes from, in the same letters
"""


COMBINATION = """\
# What methods do to each other, begun by `advise rules new`; docs/rules.md explains every key.
id: {id}
title: TODO what they have in common ({id})
# exclusive: the same job, take one; overlapping: gains overlap. With `partners` as well:
# ordered: methods come first; paired: each makes room for the other; harmful: methods spoil them.
relation: overlapping  # TODO
methods: [sy-predecode, sy-gpuaug]  # TODO
# partners: [sy-workers]
why: >-
  TODO Why that is so.
source: TODO who says so
provenance: F  # TODO P paper, S stored source, M memory, F field knowledge, D derived
"""


def rule_stub(name: str) -> str:
    """The YAML of a rule that works and says TODO where its author has to decide."""
    return RULE.format(id=name, threshold=f"{name.replace('-', '_')}_gain")


def method_stub(name: str) -> str:
    """The same for a method."""
    return METHOD.format(id=name)


def combination_stub(name: str) -> str:
    """The same for a combination."""
    return COMBINATION.format(id=name)
