from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

CLOSING = re.compile(
    r"steps=(?P<steps>\d+) seconds=(?P<seconds>[\d.]+) "
    r"ms_per_step=(?P<ms_per_step>[\d.]+) loss=(?P<loss>\d+\.\d+)"
)


def run(folder: Path, name: str, *arguments: str, steps: int = 6) -> list[float]:
    """Run an example in `folder` and return the losses it printed."""
    profile = folder / "profile.json"
    profile.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"stepscope.examples.{name}", *arguments]
    command += ["--steps", str(steps), "--profile", str(profile)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    *progress, last = done.stdout.splitlines()
    closing = CLOSING.fullmatch(last)
    assert closing is not None, last
    assert int(closing["steps"]) == steps
    assert 0 < float(closing["ms_per_step"]) / 1000 <= float(closing["seconds"])

    losses = [float(line.rpartition("loss ")[2]) for line in progress]
    assert len(losses) == steps
    assert losses[-1] == float(closing["loss"])
    assert profile.exists() is ("--no-profile" not in arguments)
    return losses


def test_a_checkpoint_less_often_trains_the_same_model(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    options = ("--batch-size", "2", "--checkpoint", str(checkpoint), "--no-profile")

    rarely = run(tmp_path, "char_gpt", *options, "--checkpoint-every", "100")
    assert not checkpoint.exists()
    always = run(tmp_path, "char_gpt", *options)
    assert checkpoint.exists()

    assert always == rarely
    assert always[-1] < always[0]


def test_a_batch_in_one_piece_trains_the_same_model(tmp_path: Path) -> None:
    options = ("--rows", "500", "--batch-size", "32", "--no-profile")

    row_by_row = run(tmp_path, "tabular_mlp", *options)
    batched = run(tmp_path, "tabular_mlp", *options, "--batched")

    assert row_by_row == batched


def test_jpeg_files_are_made_once_and_learned_from(tmp_path: Path) -> None:
    data = tmp_path / "images"
    options = ("--data", str(data), "--images", "16", "--batch-size", "4", "--no-profile")

    first = run(tmp_path, "jpeg_cnn", *options, "--workers", "1")
    files = {path: path.stat().st_mtime_ns for path in data.glob("*/*.jpg")}
    assert len(files) == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]

    again = run(tmp_path, "jpeg_cnn", *options, "--workers", "1")
    assert again == first
    run(tmp_path, "jpeg_cnn", *options, "--workers", "0", "--predecoded")
    assert {path: path.stat().st_mtime_ns for path in data.glob("*/*.jpg")} == files


def test_recording_leaves_the_healthy_run_as_it_is(tmp_path: Path) -> None:
    options = ("--images", "64", "--batch-size", "8")

    losses = run(tmp_path, "healthy_cnn", *options)

    assert losses == run(tmp_path, "healthy_cnn", *options, "--no-profile")
