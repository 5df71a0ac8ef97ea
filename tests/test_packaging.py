"""What is shipped is what was tested: from the source archive to a wheel to a clean folder."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import a_data_bound_run

from stepscope.profiler.storage import save

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]
NOT_SHIPPED = ("__pycache__", ".venv", "build", "dist")


class Shipped(NamedTuple):
    """The archives, with their members, and the folder the wheel was installed to."""

    source: set[str]
    wheel: set[str]
    target: Path


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Build an archive from a folder with a project; the setuptools at hand serves if it can."""
    try:
        at_hand = int(version("setuptools").partition(".")[0]) >= 80
    except PackageNotFoundError:
        at_hand = False
    isolation = ["--no-isolation"] if at_hand else []
    run("-m", "build", f"--{kind}", *isolation, "--outdir", out, source, cwd=out.parent)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    if find_spec("build") is None:
        pytest.skip("needs the package `build`")
    folder = tmp_path_factory.mktemp("packaging")
    for name in ("sdist", "source", "wheel", "target"):
        (folder / name).mkdir()
    # From a copy: building in the tree would leave an egg-info there.
    tree = folder / "tree"
    files = run_git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for file in files:
        if (ROOT / file).is_file():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_bytes((ROOT / file).read_bytes())
    sdist = build("sdist", tree, folder / "sdist")
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(folder / "source", filter="data")
    unpacked = next((folder / "source").iterdir())
    wheel = build("wheel", unpacked, folder / "wheel")
    with zipfile.ZipFile(wheel) as contents:
        members = set(contents.namelist())
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check",
        "--root-user-action=ignore", "--target", folder / "target", wheel, cwd=folder)  # fmt: skip
    return Shipped(source, members, folder / "target")


def run_git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the git checkout")
    return done.stdout


def tree(pattern: str) -> set[str]:
    """Files of the tree by their path in the wheel, e.g. `stepscope/rules/detect/...`."""
    return {
        f"stepscope/{path.relative_to(ROOT).as_posix()}"
        for path in ROOT.glob(pattern)
        if path.is_file() and not set(path.parts) & set(NOT_SHIPPED)
    }


def test_the_listed_packages_are_the_folders_of_the_tree() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("__init__.py")
        if not {part for part in path.relative_to(ROOT).parts if part in (*NOT_SHIPPED, "tests")}
    }

    assert set(listed) == set(FOLDERS)
    assert set(FOLDERS.values()) == found
    for package, folder in FOLDERS.items():
        assert package == f"stepscope.{folder.replace('/', '.')}"


def test_every_package_is_typed() -> None:
    for folder in FOLDERS.values():
        assert (ROOT / folder.partition("/")[0] / "py.typed").is_file()


def test_every_module_rule_and_template_is_in_the_wheel(shipped: Shipped) -> None:
    modules = {name for folder in FOLDERS.values() for name in tree(f"{folder}/*.py")}
    rules = tree("rules/**/*.yaml")
    assets = {name for name in tree("templates/**/*") if not name.endswith(".py")}
    markers = tree("*/py.typed")

    assert len(rules) > 35
    assert any(name.endswith(".j2") for name in assets)
    expected = modules | rules | assets | markers
    assert expected - shipped.wheel == set()


def test_nothing_else_is_in_the_wheel(shipped: Shipped) -> None:
    foreign = {name for name in shipped.wheel if not name.startswith("stepscope/")}
    assert {name.partition("/")[0].partition("-")[0] for name in foreign} == {"stepscope"}
    assert all(".dist-info/" in name for name in foreign)
    assert not [name for name in shipped.wheel if "test" in name or "__pycache__" in name]
    # No module of the root: it belongs to nobody, so that parts can live side by side.
    assert "stepscope/__init__.py" not in shipped.wheel


def test_the_source_archive_holds_what_a_packager_needs(shipped: Shipped) -> None:
    expected = {"pyproject.toml", "LICENSE", "README.md", "tests/builders.py"}
    expected |= {"tests/test_packaging.py", "docs/advice.schema.json"}
    expected |= {name for name in ("Makefile", "CHANGELOG.md") if (ROOT / name).exists()}

    assert expected - shipped.source == set()
    assert not [name for name in shipped.source if name.endswith(".pyc")]


def in_clean_python(shipped: Shipped, code: str, *arguments: str | Path, cwd: Path) -> str:
    """Run code isolated from the tree; only the installed copy may be found."""
    start = f"import sys; sys.path.insert(0, {str(shipped.target)!r}); "
    return run("-I", "-c", start + code, *arguments, cwd=cwd)


def test_the_installed_copy_judges_a_profile(shipped: Shipped, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save(a_data_bound_run(), path)

    out = in_clean_python(
        shipped, "from stepscope.advisor.cli import main; main()", path, cwd=tmp_path
    )

    assert "BOTTLENECK: CPU preprocessing" in out
    assert path.with_suffix(".html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_it_is_the_installed_copy_that_was_used(shipped: Shipped, tmp_path: Path) -> None:
    names = sorted(FOLDERS)
    code = f"import importlib; print([importlib.import_module(n).__file__ for n in {names}])"

    out = in_clean_python(shipped, code, cwd=tmp_path)

    assert out.count(str(shipped.target)) == len(names)


def test_the_installed_copy_tells_its_version(shipped: Shipped, tmp_path: Path) -> None:
    code = "from stepscope.advisor.cli import main; main()"

    out = in_clean_python(shipped, code, "--version", cwd=tmp_path)

    assert PYPROJECT["project"]["version"] in out


def test_the_command_is_installed(shipped: Shipped) -> None:
    assert (shipped.target / "bin" / "advise").is_file()
