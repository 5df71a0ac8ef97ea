"""A forecast on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepscope.advisor import wording
from stepscope.advisor.terminal import Writer

if TYPE_CHECKING:
    from rich.console import Console

    from stepscope.advisor.scaling.answer import Forecast, LinkFound


def print_forecast(found: Forecast, console: Console) -> None:
    """Step, throughput and efficiency as they are and as they would be, and what is assumed."""
    writer = Writer(console)
    gain = found.throughput
    writer.line(f"If {found.scenario}:", "bold")
    writer.indented(
        f"a step of {found.predicted_ranks} ranks would take "
        f"{wording.duration(found.predicted_step_seconds)} "
        f"({wording.duration(found.step_low)} to {wording.duration(found.step_high)}) instead of "
        f"{wording.duration(found.step_seconds)}"
    )
    rates = ""
    if found.samples_per_s is not None and found.predicted_samples_per_s is not None:
        rates = f": {found.predicted_samples_per_s:.4g} samples/s instead of "
        rates += f"{found.samples_per_s:.4g}"
    writer.indented(
        f"throughput {wording.speedup(gain.speedup)} "
        f"({wording.speedup_interval(gain.low, gain.high)}){rates}"
    )
    writer.indented(
        f"efficiency {wording.share(found.predicted_efficiency)} instead of "
        f"{wording.share(found.efficiency)} of ranks that exchange nothing"
    )
    writer.indented(
        f"then the step is held by {wording.cause_label(found.next_cause)}: at most "
        f"{wording.share(found.left_share)} of it is left to gain there"
    )
    if found.link is not None:
        writer.indented(f"link now: {link_words(found.link)}", "dim")
    writer.indented(f"if {gain.assumes}", "dim")


def link_words(link: LinkFound) -> str:
    """Latency and bandwidth, as far as the record tells them."""
    words = f"{link.backend}"
    if link.bus_bytes_per_s is not None:
        words += f", {wording.size(link.bus_bytes_per_s)}/s on the bus"
    if not link.told:
        return words + "; latency cannot be told from bandwidth"
    low, high = wording.duration(link.latency_low), wording.duration(link.latency_high)
    each = wording.duration(link.latency_seconds)
    return f"{words}, {each} a hop ({low} to {high})"
