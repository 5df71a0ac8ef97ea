"""The whole corpus: every module with cases, which enter themselves."""

from __future__ import annotations

from rank_corpus import balanced, links, stragglers
from rank_corpus.case import CASES, Case

__all__ = ["CASES", "Case", "balanced", "links", "stragglers"]
