from __future__ import annotations

import gc
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from loops import record, spin
from torch.utils.data import IterableDataset, Subset, _DatasetKind, default_collate

from stepscope.profiler import blame, profile, stacks
from stepscope.profiler.fetching import FetchTimer
from stepscope.profiler.format import Site
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.sitefile import SiteFile, read
from stepscope.profiler.stacks import Sites, StackSampler, under_way

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


Phase = Callable[[], str | None]


def sampler_here(phase: Phase = lambda: "python", hz: float = 200) -> StackSampler:
    return StackSampler(phase, threading.get_ident(), threading.get_native_id(), hz=hz)


def watch(body: Callable[[], Any], phase: Phase = lambda: "python", hz: float = 200) -> list[Site]:
    """Where this thread was seen while it ran `body`."""
    sampler = sampler_here(phase, hz)
    sampler.start()
    try:
        body()
    finally:
        sampler.stop()
    return sampler.sites()


def share(sites: list[Site], **fields: Any) -> float:
    """Part of the samples whose sites have these fields."""
    fit = sum(s.samples for s in sites if all(getattr(s, k) == v for k, v in fields.items()))
    return fit / max(1, sum(s.samples for s in sites))


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def busy_place() -> None:
    spin(0.4)  # the busy line


# Where --------------------------------------------------------------------------------------------


def test_the_busy_line_is_found() -> None:
    sites = watch(busy_place)
    assert sites[0].file == spin.__code__.co_filename
    assert sites[0].phase == "python"
    assert share(sites, function="spin") > 0.8
    assert sites == sorted(sites, key=lambda site: -site.samples)


def test_a_library_is_charged_to_the_line_that_calls_it() -> None:
    def body() -> None:
        end = time.thread_time() + 0.4
        while time.thread_time() < end:
            sorted(range(20_000), key=str)
            torch.nn.functional.layer_norm(torch.ones(64, 64), (64,))  # runs Python of torch

    sites = watch(body)
    assert {Path(site.file).name for site in sites} == {Path(__file__).name}
    assert share(sites, function=sites[0].function) > 0.9


@pytest.mark.parametrize(
    ("file", "users"),
    [
        (__file__, True),
        ("/home/me/project/train.py", True),
        ("<ipython-input-3-abc>", True),
        ("/tmp/ipykernel_12/3456.py", True),
        ("<frozen importlib._bootstrap>", False),
        ("<__array_function__ internals>", False),
        (os.__file__, False),
        (torch.nn.__file__, False),
        (pytest.__file__, False),
        (stacks.__file__, False),
        ("/usr/lib/python3/dist-packages/PIL/Image.py", False),
    ],
)
def test_whose_code_it_is(file: str, users: bool) -> None:
    assert blame.is_users(file) is users


def test_without_any_code_of_the_user_the_innermost_frame_is_named() -> None:
    encoder = json.JSONEncoder(default=lambda value: frames.append(sys._getframe(1)))
    frames: list[Any] = []
    encoder.encode(object())
    file, line, function = blame.place(frames)
    assert (file, line > 0) == (json.encoder.__file__, True)
    assert function.startswith("json.encoder.")


def test_moments_without_a_phase_are_left_out() -> None:
    assert watch(lambda: spin(0.1), lambda: None) == []


def test_an_error_in_the_phase_is_survived() -> None:
    errors = iter([ValueError(), KeyError()])

    def phase() -> str:
        for error in errors:
            raise error
        return "python"

    assert watch(lambda: spin(0.2), phase)


def test_the_table_is_bounded() -> None:
    sites = Sites()
    for line in range(2000):
        sites.add(("python", "train.py", line, "main", None, "running"))
    found = sites.as_list()
    assert len(found) == 501
    assert (found[0].function, found[0].samples) == ("other", 1500)
    assert sites.samples == sum(site.samples for site in found) == 2000


def test_a_late_look_counts_for_those_it_missed() -> None:
    def hold_the_interpreter_lock() -> None:
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            re.match("(a+)+$", "a" * 22 + "b")

    sites = watch(hold_the_interpreter_lock, hz=100)
    assert share(sites, line=line_of(hold_the_interpreter_lock, "re.match")) > 0.8
    assert sum(site.samples for site in sites) >= 20


def test_looking_keeps_nothing_alive() -> None:
    class Big:
        pass

    def body() -> weakref.ref[Big]:
        big = Big()
        spin(0.1)
        return weakref.ref(big)

    gone: list[Any] = []
    gc.disable()
    try:
        watch(lambda: gone.append(body()))
        assert gone[0]() is None
    finally:
        gc.enable()


# What for -----------------------------------------------------------------------------------------


def wait_for_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.3)


def wait_for_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0.3)
        with pytest.raises(TimeoutError):
            here.recv(1)


def wait_for_blocking_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        threading.Timer(0.3, lambda: there.send(b"x")).start()
        here.recv(1)


def wait_for_pipe() -> None:
    reading, writing = os.pipe()
    threading.Timer(0.3, lambda: os.write(writing, b"x")).start()
    os.read(reading, 1)
    select.select([reading], [], [], 0.3)
    os.close(reading)
    os.close(writing)


@linux_only
@pytest.mark.parametrize(
    ("state", "body"),
    [
        # Not in Python: its lock is what a look takes from a thread that works there.
        ("running", lambda: hashlib.sha256(bytes(200 << 20)).digest()),
        ("sleep", lambda: time.sleep(0.3)),
        ("lock", wait_for_lock),
        ("socket", wait_for_socket),
        ("socket", wait_for_blocking_socket),
        ("pipe", wait_for_pipe),
        ("child", lambda: subprocess.run(["sleep", "0.3"], check=True)),
    ],
)
def test_what_a_thread_waits_for(state: str, body: Callable[[], Any]) -> None:
    assert share(watch(body), state=state) > 0.6


def await_a_child() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(time.sleep, (0.5,))


def await_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 0.5).result()


def receive_from_a_child() -> None:
    receiving, sending = multiprocessing.get_context("fork").Pipe(duplex=False)
    numbers = [{"key": str(n), "values": [n, n]} for n in range(400_000)]
    process = multiprocessing.get_context("fork").Process(target=sending.send, args=(numbers,))
    process.start()
    receiving.recv()
    process.join()


@linux_only
@pytest.mark.parametrize(
    ("state", "body", "least"),
    [
        ("awaiting", await_a_child, 0.5),
        ("awaiting", await_a_thread, 0.5),
        ("receiving", receive_from_a_child, 0.0),
    ],
)
def test_what_another_process_makes_is_awaited_and_received(
    state: str, body: Callable[[], Any], least: float
) -> None:
    assert share(watch(body), state=state) > least


def test_what_the_profiler_does_between_two_steps_is_no_code_of_the_loop() -> None:
    recorder = Recorder(0)

    def look() -> bool:
        spin(0.3)
        return True

    recorder.on_step.append(look)

    seen = {site.function for site in watch(recorder.end_step)}
    assert not seen & {"look", "spin"}  # a late look has no place
    recorder.close()


@linux_only
def test_a_hardened_kernel_tells_only_running_or_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepscope.profiler import threadstate  # noqa: PLC0415

    opened = threadstate._opened
    monkeypatch.setattr(
        threadstate, "_opened", lambda path: -1 if path.endswith("syscall") else opened(path)
    )
    assert share(watch(lambda: time.sleep(0.3)), state="blocked") > 0.6
    monkeypatch.setattr(threadstate, "_opened", lambda path: -1)
    assert {site.state for site in watch(lambda: time.sleep(0.3))} <= {"running", "held"}


# Lifetime -----------------------------------------------------------------------------------------


def test_stopping_twice_or_before_the_start_is_harmless() -> None:
    sampler = sampler_here()
    sampler.stop()
    sampler = sampler_here()
    sampler.start()
    sampler.stop()
    sampler.stop()
    assert not sampler.is_alive()


@linux_only
def test_its_files_are_given_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        watch(lambda: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_none_of_it() -> None:
    sampler = sampler_here()
    sampler.start()
    spin(0.1)
    under_way[threading.get_ident()] = stacks.Fetch(Sites())
    try:
        child = os.fork()
        if child == 0:
            sampler.stop()
            clean = not sampler.sites() and not under_way and not sampler.is_alive()
            os._exit(0 if clean else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        under_way.clear()
        sampler.stop()
    assert sampler.sites()


def test_a_table_of_sites_travels_as_a_file(tmp_path: Path) -> None:
    sites = Sites()
    file = SiteFile(tmp_path / "0-0-1.sites", sites)
    key = ("fetch", "data.py", 3, "load", "Resize", "file")
    sites.add(key, 5)
    file.tick()  # not yet: at most every half second
    assert not (tmp_path / "0-0-1.sites").exists()
    file.write()
    assert read(tmp_path / "0-0-1.sites") == {key: 5}
    assert [path.name for path in tmp_path.iterdir()] == ["0-0-1.sites"]


# Transforms ---------------------------------------------------------------------------------------

P = pipelines
Compose, ModuleCompose, KeywordCompose = P.Compose, P.ModuleCompose, P.KeywordCompose
PIPELINES: dict[str, tuple[Any, str, str]] = {
    "compose": (P.Images(Compose([P.Quick(), P.Slow(), P.Quick()])), "Slow", "spin"),
    "nested compose": (P.Images(Compose([Compose([P.Quick(), P.Slow()])])), "Slow", "spin"),
    "function": (P.Images(Compose([P.Quick(), P.slow_function])), "slow_function", "spin"),
    "module": (P.Images(ModuleCompose([P.Quick(), P.SlowModule()])), "SlowModule", "spin"),
    "nested modules": (
        P.Images(ModuleCompose([ModuleCompose([P.SlowModule()])])),
        "SlowModule",
        "spin",
    ),
    "built-in": (P.Dozing(Compose([P.Quick(), time.sleep])), "sleep", "Compose.__call__"),
    "keywords": (
        P.Images(KeywordCompose([P.QuickKeyword(), P.SlowKeyword()]), keyword=True),
        "SlowKeyword",
        "spin",
    ),
    "one of": (
        P.Images(KeywordCompose([P.OneOf([P.SlowKeyword()])]), keyword=True),
        "SlowKeyword",
        "spin",
    ),
    "plain function": (P.Images(P.slow_function), "slow_function", "spin"),
    "plain object": (P.Images(P.Slow()), "Slow", "spin"),
    "method": (P.Methods(P.Quick()), "Methods.decode", "spin"),
    "all in one": (P.AllInOne(P.Quick()), "AllInOne.__getitem__", "AllInOne.__getitem__"),
    "subset": (Subset(P.Methods(P.Quick()), range(8)), "Methods.decode", "spin"),
    "whole batches": (P.AtOnce(P.Quick()), "slow_function", "spin"),
    "stream": (P.Stream(), "slow_function", "spin"),
    "mapped stream": (P.MappedStream(), "slow_function", "spin"),
}


def sites_of_fetch(dataset: Any, collate: Any = default_collate, batches: int = 2) -> list[Site]:
    """Where this thread was seen while it fetched some batches from `dataset`."""
    stream = isinstance(dataset, IterableDataset)
    kind = _DatasetKind.Iterable if stream else _DatasetKind.Map
    create: Any = _DatasetKind.create_fetcher
    fetcher = create(kind, dataset, True, collate, False)
    sites = Sites()
    FetchTimer(lambda record: None, sites).attach(fetcher)
    watch(lambda: [fetcher.fetch([0, 0, 0]) for _ in range(batches)], lambda: None)
    return sites.as_list()


@pytest.mark.parametrize("name", PIPELINES)
def test_the_slow_transform_is_named(name: str) -> None:
    dataset, transform, function = PIPELINES[name]
    sites = sites_of_fetch(dataset)

    assert share(sites, phase="fetch") > 0.8
    assert share(sites, transform=transform) > 0.7
    if sys.version_info >= (3, 11):
        assert share(sites, function=function) > 0.7


def test_a_function_below_a_librarys_dataset_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with `set_transform` of Hugging Face's datasets.
    library = tmp_path / "site-packages" / "library.py"
    library.parent.mkdir()
    library.write_text(
        "class Rows:\n"
        "    def __getitem__(self, index):\n"
        "        return self.format_row(index)\n"
        "    def format_row(self, index):\n"
        "        return self.transform(index)\n"
    )
    monkeypatch.syspath_prepend(library.parent)
    rows = importlib.import_module("library").Rows()
    rows.transform = P.slow_function
    assert share(sites_of_fetch(rows), transform="slow_function", function="spin") > 0.7

    rows.transform = lambda index: json.dumps([index] * 100_000)
    sites = sites_of_fetch(rows)
    assert share(sites, transform="<lambda>") > 0.7
    assert share(sites, file=__file__) > 0.7  # the caller's, not the library's


def test_collating_is_a_stage_of_its_own() -> None:
    def slow_collate(samples: Any) -> Any:
        spin(P.SPIN_S)
        return samples

    sites = sites_of_fetch([1, 2, 3], slow_collate, batches=5)
    assert share(sites, phase="collate", transform="slow_collate", function="spin") > 0.8


def in_a_step() -> None:
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        sum(range(100))


def after_the_loop() -> None:
    end = time.thread_time() + 0.4
    while time.thread_time() < end:
        sum(range(100))


def test_what_comes_after_the_last_step_belongs_to_none(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in range(3):
            in_a_step()
            prof.step()
        after_the_loop()

    functions = {site.function for site in record(tmp_path / "profile.json", body).sites}

    assert "in_a_step" in functions
    assert "after_the_loop" not in functions
