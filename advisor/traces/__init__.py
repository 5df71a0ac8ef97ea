"""Traces of torch.profiler (Kineto's Chrome traces): from a file to the profile that is judged.

The way: `files` (bytes) -> `reader` (events) -> `columns` (numbers) -> `spool` (sorted by time,
on disk) -> `steps` -> `analysis` (sums) -> `profile`. Its modules import numpy; who only wants to
know whether a file is a trace asks :mod:`stepscope.advisor.inputs`.
"""
