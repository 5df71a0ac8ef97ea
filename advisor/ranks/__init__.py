"""Many ranks as one job: each rank becomes a summary, and two summaries become one.

The way: `profiles` or `stepscope.advisor.traces.ranks` (one rank) -> `summary` (merging) -> `job`
(the profile that is judged); `engines` has the ranks read in parallel. A summary does not grow with
the number of ranks, and merging gives the same bytes in any grouping and order.
"""
