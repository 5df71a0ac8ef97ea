"""Collectives, and what several ranks tell together."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class Collective(Struct, kw_only=True, omit_defaults=True):
    """What DistributedDataParallel's own logger says of one wrapped model, averages per step."""

    backend: str | None = None
    gradient_bytes: int
    buckets: int
    communication_ns: int
    overlap_ns: int
    backward_ns: int
    find_unused_parameters: bool | None = None
    """Whether the graph is searched for parameters without a gradient in each step."""
    unused_parameter_bytes: int | None = None
    """Of parameters that had none when it was looked last."""
    bucket_bytes: list[Count] = []
    """Sizes of the buckets in use, in the order in which they are sent; 64 at most."""
    bucket_cap_bytes: Count | None = None
    rebuilt: bool | None = None
    """Whether buckets were built anew, in the order in which gradients became ready."""
    first_bucket_ns: Count | None = None
    """From the start of backward until the first bucket was full, when it was sampled last."""
    gradient_as_bucket_view: bool | None = None
    static_graph: bool | None = None


class Meetings(Struct, kw_only=True, omit_defaults=True):
    """When collectives of all ranks ended: at most one of a step, and 256 of a run.

    All ranks see the same end within the time of a transfer, and keep the ends of the same steps.
    """

    clock: str
    """Which clock: ranks of one machine have the same."""
    origin_ns: int
    """What it showed when the recording began: nanoseconds since 1970."""
    steps: list[Count]
    ends_ns: list[int]
    """Since then, on this clock."""


class Straggler(Struct, kw_only=True, omit_defaults=True):
    """A rank that others wait for."""

    rank: int
    collectives: Count
    """In so many it came last; of recorded profiles, in so many steps."""
    waited_for_ns: int
    """How long the others waited for it there, mean of the ranks, sum over all steps."""
    cause: str | None = None
    """The cause, by its id, on which it spends most time beyond the median rank."""
    excess_ns: int | None = None
    """That time, per step."""


class RankTimes(Struct, kw_only=True, omit_defaults=True):
    """One rank; times are means per step."""

    rank: int
    host: str | None = None
    steps: Count
    step_ns: int
    own_ns: int
    """Outside of collectives, as far as those were timed."""
    exchange_ns: int | None = None
    """In collectives, and waiting there for others; None where that was not timed."""
    data_wait_ns: int = 0
    core_wait_ns: int | None = None
    """The training thread was runnable and had no core."""
    clock_mhz: float | None = None
    """Of its device."""
    causes: dict[str, int] = {}
    """Where its own time goes, by cause."""


class HostTimes(Struct, kw_only=True, omit_defaults=True):
    """The ranks of one host together; times are means per step."""

    host: str
    ranks: Count
    own_ns: int
    exchange_ns: int | None = None
    slowest: int
    """The rank with the most time of its own."""


class Clock(Struct, kw_only=True, omit_defaults=True):
    """How far a machine's clock is from those of the others, by the ends of collectives."""

    host: str | None = None
    rank: int
    """The first whose clock it is."""
    ranks: Count
    offset_ns: int
    """What it shows beyond the usual clock; of two, beyond that of the lower rank. Median over the
    run."""
    uncertainty_ns: int
    """Half of the range in which eight of ten collectives put it."""
    drift: float | None = None
    """Seconds that it gains in a second; None where that is not told from chance."""
    meetings: Count
    """So many collectives were compared."""


class HeatMap(Struct, kw_only=True):
    """Time per step by rank and step, row by row; cells without a measurement are None."""

    kind: str
    """`own`: outside of collectives; `step`: the whole step, where those were not timed."""
    first_rank: int
    ranks_per_row: int
    """Neighbouring ranks that share a row."""
    first_step: int
    steps_per_column: int
    columns: Count
    mean_ns: list[int | None]
    longest_ns: list[int | None]
    """Of one rank in one step, or in one row of its table, where steps were added up."""
    longest_rank: list[int | None]
    """Whose that is."""


class Link(Struct, kw_only=True, omit_defaults=True):
    """Collectives of one kind in one group of ranks."""

    collective: str
    """E.g. `allreduce`."""
    ranks: list[int]
    """The group, as far as known; the first 64."""
    size: Count
    """Ranks of the group."""
    hosts: list[str] = []
    calls: Count
    bytes: int
    """Of one call, mean."""
    time_ns: int
    """Of one call once all ranks are there, mean."""
    algorithm_bytes_per_s: float
    """Bytes over time."""
    bus_bytes_per_s: float
    """What the slowest link must have carried, by the formulas of nccl-tests."""
    usual_bytes_per_s: float | None = None
    """Median of other groups that do the same, where this one is much slower: a slow link."""


class RankLink(Struct, kw_only=True, omit_defaults=True):
    """What a rank's connections to other ranks tell of its link."""

    rank: int
    bytes_per_s: float
    """Over its fastest connection while something was on its way, headers of packets included; of
    a slow link, over its slowest."""
    busy_ns: int
    """Per step, in the busier direction: what it sent, or was sent, was on its way."""
    usual_bytes_per_s: float | None = None
    """Median of the other ranks, where this one is much slower."""


class Ranks(Struct, kw_only=True, omit_defaults=True):
    """What only the records of several ranks tell together.

    Rows and lists are bounded whatever the number of ranks; counts and sums are of all of them.
    """

    count: Count
    missing: Count = 0
    """Ranks of the job of which there is no record."""
    missing_ranks: list[int] = []
    """The first of them."""
    transfer_ns: int = 0
    """Time in collectives once all ranks are there: for each, its shortest over the ranks (of
    recorded profiles: for each row of steps). Like the next, the mean of the ranks, summed over all
    steps."""
    waiting_ns: int = 0
    """Time in collectives before that."""
    imbalance: float | None = None
    """Time outside of collectives of the slowest rank, over the mean of the ranks."""
    slowest: int | None = None
    """That rank."""
    stragglers: list[Straggler] = []
    """Who waited least where others waited, the costliest first."""
    persistent: bool = False
    """Whether the first of them is nearly always the one that others wait for."""
    rows: list[RankTimes] = []
    """The slowest ranks by their own time, and those that wait least."""
    typical: dict[str, int] = {}
    """Time per step of the median rank, by cause and for `own`, `step` and so on."""
    hosts: list[HostTimes] = []
    clocks: list[Clock] = []
    """Where there are several; those with the largest offset first."""
    heat: HeatMap | None = None
    links: list[Link] = []
    """The slowest first."""
    rank_links: list[RankLink] = []
    """The slowest first; of ranks that exchange over TCP."""
