"""What another link, smaller messages, accumulation, batch or number of ranks would do to a step.

The way: `traffic` (what a step sends, and how much of it nothing hides) with `link` (what of a
message's time is latency) and `waiting` (how late the last of so many ranks is) -> `forecast` (the
stages under a scenario, and the speedup that follows) -> `curve` (over numbers of ranks).
"""
