from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from loops import record, run_steps, spent

from stepscope.profiler import profile
from stepscope.profiler.file_access import FileLines, file_lines, note_file_access
from stepscope.profiler.format import Site
from stepscope.profiler.processes import FileTraffic, file_traffic

PROGRAM = """\
import json

def train(file, table):
    with open("log", "w") as other:
        loss = step()
        other.write(
            json.dumps({"loss": loss})
        )
    for row in table:
        total = sum(row)
        if total:
            json.dump(row, file)
    print(json.dumps(total))
    weights.numpy().tofile(file); flush = 3
    for line in other.write(total):
        pass
"""


def test_statements_that_write_are_found(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)

    assert file_lines(str(program)).writing == {4, 6, 7, 8, 12, 14, 15}


@pytest.mark.parametrize("text", [b"def broken(:", b"\xff\xfe\x00", b"# coding: klingon\n"])
def test_what_is_no_readable_program_writes_nothing(tmp_path: Path, text: bytes) -> None:
    program = tmp_path / "train.py"
    program.write_bytes(text)
    nothing = FileLines(frozenset(), frozenset())

    assert file_lines(str(program)) == nothing
    assert file_lines(str(tmp_path / "gone.py")) == nothing
    assert file_lines("<stdin>") == nothing


def test_only_the_phase_without_a_name_is_asked(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("file.write(text)\n")

    def seen(phase: str = "python", line: int = 1, state: str = "running") -> Site:
        return Site(phase=phase, file=str(program), line=line, function="train", state=state)

    sites = [seen(), seen(state="held"), seen("forward"), seen(line=2)]

    note_file_access(sites)

    assert [site.writes for site in sites] == [True, False, False, False]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_profile_tells_what_the_loop_writes(tmp_path: Path) -> None:
    block = bytes(16 << 20)  # long enough that the looks do not all meet the end of a step

    def loop(prof: profile) -> None:
        until = time.monotonic() + 1.5
        with (tmp_path / "weights").open("wb", buffering=0) as file:
            for _ in prof.steps(range(10**6)):
                file.seek(0)
                file.write(block)
                if time.monotonic() > until:
                    break

    recorded = record(tmp_path / "profile.json", loop)

    looks = [s for s in recorded.sites if s.phase == "python" and s.state != "held"]
    assert any(s.writes for s in looks)  # how many depends on what else the machine does
    columns = recorded.samples.columns
    written = sum(value or 0 for value in columns["written_bytes_per_s"])
    assert written / sum(value or 0 for value in columns["writes_per_s"]) > 100_000


def test_a_thread_that_does_not_exist_has_written_nothing_known() -> None:
    assert file_traffic(2**22 + 1) == FileTraffic()


@pytest.mark.parametrize(
    ("call", "writes"),
    [
        ('open(path, "w")', True),
        ('path.open("ab", 0)', True),
        ('open(path, mode="x+")', True),
        ("open(path)", False),
        ('open("w.txt", "rb")', False),
        ("open(path, mode)", False),
    ],
)
def test_opening_to_write_is_writing(tmp_path: Path, call: str, writes: bool) -> None:
    program = tmp_path / "train.py"
    program.write_text(f"with {call} as file:\n    use(file)\n")

    assert (1 in file_lines(str(program)).writing) is writes


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_making_a_line_of_many_is_logging_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:

        def step() -> None:
            for number in range(50):
                print("".join(str(n) for n in range(100)), number, file=log)

        recorded = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step, 20))

    # Making the text takes several times as long as writing it.
    assert spent(recorded, "logging") > spent(recorded, "python")


@pytest.mark.parametrize(
    ("statement", "reading"),
    [
        ("rows = Path(path).read_bytes()", {1}),
        ('with open(path, "rb") as file:\n    rows = file.read()\n    use(rows)', {1, 2}),
        ("x = np.load(path)", {1}),
        ("x = pickle.load(file)", set()),
        ('with open(path, "w") as file:\n    file.write(rows)', set()),
        ("for name in os.listdir(path):\n    use(name)", {1}),
        ("(row,) = database.execute(query, (n,)).fetchone()", {1}),
        ("table = pl.read_ipc(path)", {1}),
        ("image = torchvision.io.read_image(path)", {1}),
        ("writer.write_table(table)", set()),
    ],
)
def test_statements_that_read_are_found(tmp_path: Path, statement: str, reading: set[int]) -> None:
    program = tmp_path / "train.py"
    program.write_text(statement + "\n")

    assert file_lines(str(program)).reading == reading


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_profile_tells_what_the_loop_reads(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number}.bin").write_bytes(bytes(512))

    def loop(prof: profile) -> None:
        until = time.monotonic() + 1.5
        for _ in prof.steps(range(10**6)):
            for number in range(400):
                (tmp_path / f"{number}.bin").read_bytes()
            if time.monotonic() > until:
                break

    recorded = record(tmp_path / "profile.json", loop)

    looks = [s for s in recorded.sites if s.phase == "python" and s.state != "held"]
    assert any(s.reads for s in looks)
    columns = recorded.samples.columns
    assert sum(value or 0 for value in columns["reads_per_s"]) > 20
