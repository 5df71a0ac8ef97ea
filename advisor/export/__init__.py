"""Profiles, traces and advice for other tools: `advise export`.

A format is a module of `formats`, and nothing else: its name is what `--to` takes, and `FORMAT`
in it says what it writes.
"""
