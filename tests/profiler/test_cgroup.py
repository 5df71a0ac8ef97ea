from __future__ import annotations

from pathlib import Path

import pytest

from stepscope.profiler import cgroup


def lay_out(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    mounts: list[tuple[str, str, str]],
    files: dict[str, str],
) -> None:
    """A kernel's view below `root`: mounts are (root of the mount, place, type source options)."""
    (root / "self").mkdir()
    (root / "self" / "cgroup").write_text(membership)
    lines = [
        f"{30 + i} 20 0:2{i} {top} {root / place} rw,nosuid shared:9 - {rest}\n"
        for i, (top, place, rest) in enumerate(mounts)
    ]
    (root / "self" / "mountinfo").write_text("1 0 0:1 / / rw - ext4 /dev/sda rw\n" + "".join(lines))
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(cgroup, "_SELF", root / "self")


V2 = [("/", "fs", "cgroup2 cgroup2 rw,nsdelegate")]
V1 = [
    ("/", "fs/cpu", "cgroup cgroup rw,cpu,cpuacct"),
    ("/", "fs/memory", "cgroup cgroup rw,memory"),
    ("/", "fs/unified", "cgroup2 cgroup2 rw"),
]


def test_version_2_where_the_tightest_limit_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "fs/pod/job/cpu.max": "400000 100000\n",
        "fs/pod/cpu.max": "150000 100000\n",
        "fs/cpu.max": "max 100000\n",
        "fs/pod/job/memory.max": "max\n",
        "fs/pod/memory.max": "1048576\n",
        "fs/pod/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n",
    }
    lay_out(tmp_path, monkeypatch, "0::/pod/job\n", V2, files)

    assert cgroup.cpu_quota() == 1.5
    assert cgroup.memory_limit() == 1048576
    assert cgroup.throttled_seconds() == 2.5


def test_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "fs/cpu/job/cpu.cfs_quota_us": "250000\n",
        "fs/cpu/job/cpu.cfs_period_us": "100000\n",
        "fs/cpu/cpu.cfs_quota_us": "-1\n",
        "fs/cpu/cpu.cfs_period_us": "100000\n",
        "fs/cpu/job/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n",
        "fs/memory/job/memory.limit_in_bytes": "2097152\n",
        "fs/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
    }
    membership = "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/\n"
    lay_out(tmp_path, monkeypatch, membership, V1, files)

    assert cgroup.cpu_quota() == 2.5
    assert cgroup.memory_limit() == 2097152
    assert cgroup.throttled_seconds() == 1.5


def test_inside_a_container_the_mount_shows_a_part_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [("/docker/1234", "fs/memory", "cgroup cgroup rw,memory")]
    files = {"fs/memory/inner/memory.limit_in_bytes": "4096\n"}
    lay_out(tmp_path, monkeypatch, "5:memory:/docker/1234/inner\n", mounts, files)

    assert cgroup.memory_limit() == 4096
    assert cgroup.cpu_quota() is None


@pytest.mark.parametrize("membership", ["", "nonsense\n", "0::/gone\n"])
def test_no_limit_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str) -> None:
    lay_out(tmp_path, monkeypatch, membership, V2, {})

    assert cgroup.cpu_quota() is None
    assert cgroup.memory_limit() is None
    assert cgroup.throttled_seconds() is None


def test_a_system_without_proc_has_no_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_SELF", tmp_path / "nothing")
    assert cgroup.cpu_quota() is None
    assert cgroup.memory_limit() is None
