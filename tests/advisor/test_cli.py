from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from builders import a_data_bound_run, a_healthy_run, a_profile, some_steps
from click.testing import CliRunner, Result
from rich.cells import cell_len

from stepscope.advisor.advice import Advice
from stepscope.advisor.cli import cli
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import save

MAIN = "from stepscope.advisor.cli import main; main()"
WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise AssertionError("torch is imported")

sys.meta_path.insert(0, Block())
"""

needs_examples = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "numpy", "PIL")),
    reason="the demo needs stepscope[examples]",
)


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The profile of a run that waits for its loader."""
    return saved(tmp_path, a_data_bound_run())


def saved(folder: Path, profile: Profile, name: str = "profile.json") -> Path:
    save(profile, folder / name)
    return folder / name


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def process(*arguments: str | Path, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", before + MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its size and time of change."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def refusal(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line with which a call was refused."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    assert code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("advise: ")
    assert len(lines[0]) < 600
    return lines[0]


def test_prints_the_verdict_and_writes_the_report_beside_the_profile(path: Path) -> None:
    result = call(path)

    assert result.exit_code == 0
    assert result.stderr == ""
    assert "BOTTLENECK: CPU preprocessing" in result.stdout
    assert result.stdout.rstrip().endswith("profile.html")
    assert path.with_suffix(".html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(file.name for file in path.parent.iterdir()) == ["profile.html", "profile.json"]


def test_output_that_is_no_terminal_is_plain_and_narrow(path: Path) -> None:
    result = call(path)

    lines = result.stdout.splitlines()
    # A path is printed whole, however long.
    assert max(cell_len(line) for line in lines if "profile.html" not in line) <= 100
    assert max(cell_len(line) for line in lines) > 60
    assert "\x1b" not in result.stdout


def test_a_healthy_run_is_no_failure(tmp_path: Path) -> None:
    result = call(saved(tmp_path, a_healthy_run()))

    assert result.exit_code == 0
    assert "HEALTHY" in result.stdout


def test_profile_may_be_said_or_left_out(path: Path) -> None:
    assert call("profile", path).stdout == call(path).stdout


def test_json_on_standard_output_is_only_json(path: Path) -> None:
    result = call(path, "--json", "-")

    advice = msgspec.json.decode(result.stdout, type=Advice)
    assert result.stderr == ""
    assert advice.verdict.category == "cpu_preprocessing"
    assert advice.source == "profile.json"
    assert result.stdout.endswith("}\n")


def test_every_output_goes_where_it_is_told(path: Path) -> None:
    out = path.parent / "new" / "folder"

    result = call(
        path, "--html", out / "r.html", "--json", out / "a.json", "--markdown", out / "a.md"
    )

    assert result.exit_code == 0
    assert (
        json.loads((out / "a.json").read_text(encoding="utf-8"))["schema"] == "stepscope.advice/1"
    )
    assert (out / "a.md").read_text(encoding="utf-8").startswith("### stepscope: CPU preprocessing")
    assert "<!doctype html>" in (out / "r.html").read_text(encoding="utf-8")
    assert not path.with_suffix(".html").exists()
    assert "BOTTLENECK" in result.stdout


def test_markdown_on_standard_output_is_only_markdown(path: Path) -> None:
    result = call(path, "--markdown", "-")

    assert result.stdout.startswith("### stepscope: ")
    assert "BOTTLENECK" not in result.stdout


def test_an_older_report_is_replaced(path: Path) -> None:
    path.with_suffix(".html").write_text("old", encoding="utf-8")

    assert call(path).exit_code == 0
    assert path.with_suffix(".html").read_text(encoding="utf-8") != "old"


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("cpu_preprocessing", 1),
        ("cpu_preprocessing.transform", 1),
        ("cpu_preprocessing.transform:0.5", 1),
        ("cpu_preprocessing:0.99", 0),
        ("cpu_preprocessing.collate", 0),
        ("communication", 0),
        ("host.gc:0", 1),
    ],
)
def test_fail_on_decides_the_exit_status(path: Path, condition: str, code: int) -> None:
    result = call(path, "--fail-on", condition)

    assert result.exit_code == code
    assert ("--fail-on" in result.stderr) is bool(code)
    assert path.with_suffix(".html").exists()
    assert "BOTTLENECK" in result.stdout


def test_one_condition_of_several_is_enough(path: Path) -> None:
    result = call(path, "--fail-on", "communication", "--fail-on", "cpu_preprocessing")

    assert result.exit_code == 1
    assert result.stderr == "advise: --fail-on cpu_preprocessing:0.1 holds\n"


@pytest.mark.parametrize(
    "condition",
    ["luck", "host.luck", "", ":0.5", "host:much", "host:10", "host:-0.1", "host:nan", "host:inf"],
)
def test_a_condition_that_can_never_be_meant_is_refused(path: Path, condition: str) -> None:
    before = files_in(path.parent)

    assert condition in refusal(call(path, "--fail-on", condition))
    assert files_in(path.parent) == before


def test_a_threshold_can_be_set(path: Path) -> None:
    result = call(path, "--set", "healthy_gain=100", "--set", "worthwhile_gain=50", "--json", "-")

    advice = msgspec.json.decode(result.stdout, type=Advice)
    assert advice.verdict.healthy
    assert "slow_transform" in {rule.rule for rule in advice.not_fired}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("healthy_gain", "NAME=VALUE"),
        ("healthy_gain=", "NAME=VALUE"),
        ("healthy_gain=much", "NAME=VALUE"),
        ("healthy_gain=nan", "NAME=VALUE"),
        ("luck=1", "no threshold 'luck'; there are "),
        ("=1", "no threshold ''"),
    ],
)
def test_a_bad_setting_is_refused(path: Path, setting: str, words: str) -> None:
    before = files_in(path.parent)

    assert words in refusal(call(path, "--set", setting))
    assert files_in(path.parent) == before


def test_rules_of_ones_own_take_part(path: Path) -> None:
    rules = path.parent / "rules"
    folder = rules / "detect" / "mine"
    folder.mkdir(parents=True)
    (folder / "my_rule.yaml").write_text(
        "id: my_rule\ntitle: My own title\ncause: cpu_preprocessing.transform\n"
        "when: {fact: data.wait_share, op: '>=', threshold: my_limit}\n"
        "thresholds: {my_limit: {default: 0.2, reason: mine}}\n"
        "evidence: '{data.wait_share}.'\nwhy: Because.\nadvise: [sy-workers]\n"
        "fixtures: {fires: [], silent: []}\n",
        encoding="utf-8",
    )

    fired = call(path, "--rules", rules, "--json", "-")
    silent = call(path, "--rules", rules, "--set", "my_limit=0.95", "--json", "-")

    assert "My own title" in {f["title"] for f in json.loads(fired.stdout)["findings"]}
    assert "My own title" in {f["title"] for f in json.loads(silent.stdout)["not_fired"]}


def test_bad_rules_are_refused(path: Path) -> None:
    bad = path.parent / "rules" / "detect" / "mine" / "bad.yaml"
    bad.parent.mkdir(parents=True)
    bad.write_text("id: bad\ntitle: [\n", encoding="utf-8")
    before = files_in(path.parent)

    assert f"{bad}:" in refusal(call(path, "--rules", path.parent / "rules"))
    assert "no such directory" in refusal(call(path, "--rules", path.parent / "none"))
    assert files_in(path.parent) == before


def a_trace_of_nobody(folder: Path) -> Path:
    trace = {"schemaVersion": 1, "deviceProperties": [], "traceEvents": [{"ph": "X", "name": "x"}]}
    return with_bytes(folder, json.dumps(trace).encode())


def with_bytes(folder: Path, content: bytes) -> Path:
    path = folder / "bad.json"
    path.write_bytes(content)
    return path


def truncated(folder: Path) -> Path:
    content = msgspec.json.encode(a_profile())
    return with_bytes(folder, content[: len(content) // 2])


def changed(folder: Path, **fields: object) -> Path:
    document = msgspec.to_builtins(a_profile()) | fields
    return with_bytes(folder, json.dumps(document).encode())


def sparse(folder: Path) -> Path:
    path = folder / "big.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    return path


def short_run(folder: Path) -> Path:
    few = a_profile(warmup=some_steps(0, 1), steady=some_steps(1, 0))
    return saved(folder, few, "bad.json")


def a_loop_of_links(folder: Path) -> Path:
    path = folder / "loop.json"
    path.symlink_to(path)
    return path


BAD_INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.json", "no such file"),
    "in no folder": (lambda folder: folder / "none" / "none.json", "no such file"),
    "empty": (lambda folder: with_bytes(folder, b""), "is empty"),
    "blank": (lambda folder: with_bytes(folder, b" \n\n"), "is empty"),
    "truncated": (truncated, "middle of the document"),
    "wrong version": (lambda folder: changed(folder, schema="stepscope.profile/99"), "version"),
    "no schema": (lambda folder: with_bytes(folder, b"{}"), "schema"),
    "advice": (lambda folder: changed(folder, schema="stepscope.advice/1"), "is the advice"),
    "wrong type": (lambda folder: changed(folder, steady=5), "steady"),
    "ragged": (
        lambda folder: changed(folder, samples={"time_ns": [1], "columns": {"a": []}}),
        "rows",
    ),
    "trace": (a_trace_of_nobody, "another tool"),
    "directory": (lambda folder: folder, "is a directory"),
    "this directory": (lambda folder: Path(), "is a directory"),
    "root": (lambda folder: Path("/"), "is a directory"),
    "text": (lambda folder: with_bytes(folder, b"hello\n"), "not JSON"),
    "list": (lambda folder: with_bytes(folder, b"[1, 2]"), "has no events"),
    "binary": (lambda folder: with_bytes(folder, bytes(range(256)) * 10), "not JSON"),
    "not UTF-8": (lambda folder: with_bytes(folder, b'{"schema": "\xff"}'), "JSON"),
    "gzip": (lambda folder: with_bytes(folder, b"\x1f\x8b\x08rest"), "cut short"),
    "200 MB": (sparse, "210 MB"),
    "too few steps": (short_run, "only 1 training steps"),
    "deep": (lambda folder: with_bytes(folder, b'{"a":' + b"[" * 10**5), "bad.json"),
    "long name": (lambda folder: folder / ("n" * 300), "File name too long"),
    "loop of links": (a_loop_of_links, "loop.json"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_input_is_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, name: str
) -> None:
    make, words = BAD_INPUTS[name]
    bad = make(tmp_path)
    before = files_in(tmp_path)

    message = refusal(call(bad))

    assert words in message
    assert files_in(tmp_path) == before


def test_a_real_process_refuses_in_one_line_too(tmp_path: Path) -> None:
    assert "no such file" in refusal(process(tmp_path / "none.json"))
    assert "another tool" in refusal(process(a_trace_of_nobody(tmp_path)))


@pytest.fixture
def disguises(path: Path) -> list[str]:
    """Names of the profile that do not look like it."""
    (path.parent / "sub").mkdir()
    (path.parent / "link.json").symlink_to(path)
    relative = os.path.relpath(path)
    return [str(path), f"{path.parent}/sub/../profile.json", f"{path.parent}/link.json", relative]


@pytest.mark.parametrize("option", ["--html", "--json", "--markdown"])
def test_the_profile_is_never_overwritten(path: Path, disguises: list[str], option: str) -> None:
    before = files_in(path.parent)

    for name in disguises:
        assert "is the profile itself" in refusal(call(path, option, name))

    assert files_in(path.parent) == before


def test_a_profile_that_is_named_like_its_report_is_not_overwritten(tmp_path: Path) -> None:
    path = saved(tmp_path, a_data_bound_run(), "profile.html")
    before = files_in(tmp_path)

    assert "is the profile itself" in refusal(call(path))
    assert files_in(tmp_path) == before


def test_two_outputs_do_not_overwrite_each_other(path: Path) -> None:
    out = path.parent / "out"

    assert "two outputs" in refusal(call(path, "--json", out, "--markdown", out))
    assert "only one of" in refusal(call(path, "--json", "-", "--markdown", "-"))
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("option", ["--html", "--json", "--markdown"])
@pytest.mark.parametrize("place", [".", "", "{folder}", "{profile}/under", "/proc/none/out"])
def test_an_output_that_cannot_be_written_is_refused(
    path: Path, tmp_path_factory: pytest.TempPathFactory, option: str, place: str
) -> None:
    folder = tmp_path_factory.mktemp("out")
    target = place.format(folder=folder, profile=path)
    report = folder / "report.html"
    others: list[str | Path] = [] if option == "--html" else ["--html", report]
    before = files_in(path.parent)

    message = refusal(call(path, option, target, *others))

    assert target in message
    assert files_in(path.parent) == before
    assert set(files_in(folder)) <= {report}


@pytest.mark.parametrize("arguments", [["--help"], ["profile", "--help"], ["demo", "--help"]])
def test_help(arguments: list[str]) -> None:
    result = call(*arguments)

    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [["--bogus"], ["profile"], ["profile", "a", "b"]])
def test_a_wrong_call_is_told_from_a_failed_condition(arguments: list[str]) -> None:
    result = call(*arguments)

    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_the_commands_of_the_help_have_a_line_each() -> None:
    lines = call("--help").stdout.splitlines()
    assert "  advise watch profile.json        follow a run while it goes on" in lines


def test_neither_help_nor_advice_imports_torch(path: Path) -> None:
    judged = process(path, before=WITHOUT_TORCH)
    helped = process("--help", before=WITHOUT_TORCH)

    assert (judged.returncode, judged.stderr) == (0, "")
    assert path.with_suffix(".html").exists()
    assert (helped.returncode, helped.stderr) == (0, "")


def test_help_imports_nothing_slow(path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['advise', '--help']\n"
        "from stepscope.advisor.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numpy', 'jinja2', 'rich', 'yaml', 'msgspec', 'psutil'}\n"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["torch", "numpy", "PIL"])
def test_the_demo_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("torch", "numpy", "PIL"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)

    message = refusal(call("demo", "--out", tmp_path / "demo"))

    assert f"needs {package}: pip install 'stepscope[" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_demo_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(call("demo", "lucky", "--out", tmp_path / "demo"))

    assert "jpeg_cnn, char_gpt, tabular_mlp, healthy_cnn" in message
    assert list(tmp_path.iterdir()) == []


@needs_examples
def test_a_demo_needs_a_folder_it_can_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert "cannot be made" in refusal(call("demo", "--out", tmp_path / "file"))


@needs_examples
def test_a_demo_records_and_judges(tmp_path: Path) -> None:
    done = process("demo", "tabular_mlp", "--steps", "60", "--out", tmp_path / "demo")

    assert done.returncode == 0, done.stderr
    assert {"tabular_mlp.json", "tabular_mlp.html"} == {
        p.name for p in (tmp_path / "demo").iterdir()
    }
    assert "Where the step goes" in done.stdout
