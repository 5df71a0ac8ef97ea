"""`advise export`: profiles, traces and advice for other tools."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stepscope.advisor.command import Refused, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepscope.advisor.export.registry import Format
    from stepscope.advisor.export.sources import Source

# Everything else is imported where it is used, so that `advise --help` answers at once.


class _Command(click.Command):
    """A command whose help lists the formats."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from stepscope.advisor.export.registry import format_names, format_of

        with formatter.section("Formats"):
            formatter.write_dl([(name, format_of(name).help) for name in format_names()])
        super().format_epilog(ctx, formatter)


@click.command(cls=_Command, epilog="docs/export.md says what each of them shows.")
@click.argument(
    "paths", metavar="PROFILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--to", "name", metavar="FORMAT", required=True, help="One of those below.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file, or the folder of a format with many files [beside the first PROFILE].",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option(
    "--engine",
    default="processes",
    metavar="ENGINE",
    help="What reads a folder of traces: processes, dask or dask=ADDRESS [processes].",
)
def export(paths: tuple[Path, ...], name: str, out: Path | None, force: bool, engine: str) -> None:
    """Write PROFILE for another tool: profiles, traces of torch.profiler, or folders of ranks.

    Several are put side by side: as processes of one timeline, workers of one log folder, rows of
    the same tables.
    """
    from stepscope.advisor.export.registry import format_names, format_of
    from stepscope.advisor.export.sources import Source
    from stepscope.advisor.progress import working
    from stepscope.profiler.storage import ProfileError

    if name not in format_names():
        fail(f"--to {name}: choose one of {', '.join(format_names())}")
    known = format_of(name)
    sources = [Source(path, engine) for path in paths]
    out = out or paths[0].parent / f"{sources[0].name}{known.suffix}"
    try:
        with working(f"Writing {out.name}"):
            _write(known, sources, out, force=force)
    except (ProfileError, Refused) as error:
        fail(str(error))
    click.echo(out)


def _write(known: Format, sources: Sequence[Source], out: Path, *, force: bool) -> None:
    """Write to names that nobody reads yet, and rename when all is there.

    Raises:
        ProfileError: a source cannot be read.
        Refused: a file is there, or cannot be written.
    """
    paths = [out] if known.names is None else [out / name for name in known.names(sources)]
    _check(paths, sources, force=force)
    folder = paths[0].parent
    is_new = not folder.exists()
    unready = folder / f".{out.name}.{os.getpid()}"
    try:
        unready.mkdir(parents=True)
        written = [unready / path.name for path in paths]
        known.write(sources, written)
        for path, target in zip(written, paths, strict=True):
            path.replace(target)
    except OSError as error:
        raise Refused(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(unready, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # where nothing came of it


def _check(paths: Sequence[Path], sources: Sequence[Source], *, force: bool) -> None:
    """Refuse outputs that are the input, or that are there already.

    Raises:
        Refused: there is one.
    """
    read = {file.resolve() for source in sources for file in source.files()}
    for path in paths:
        if path.resolve() in read:
            raise Refused(f"{path}: is the profile itself; give another path with --out")
        if path.is_dir():
            raise Refused(f"{path}: is a directory; name a file with --out")
        if path.exists() and not force:
            raise Refused(f"{path}: is there already; --force replaces it, --out names another")
