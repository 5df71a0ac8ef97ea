"""Templates as jinja2 compiled them last: compiling is most of the time that a report takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from stepscope.advisor.cache_folder import cache_folder


class TemplateCache(jinja2.FileSystemBytecodeCache):
    """jinja2's own cache of files, which tells a changed template by its text.

    Where nothing can be written, nothing is; what is damaged is made anew.
    """

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep a compiled template if that is possible."""
        with contextlib.suppress(OSError):
            Path(self.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            super().dump_bytecode(bucket)

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill `bucket` if this template was kept."""
        try:
            super().load_bytecode(bucket)
        except Exception:  # a damaged pickle may raise anything
            bucket.reset()


def template_cache(options: Mapping[str, object]) -> TemplateCache | None:
    """The cache in the user's folder, for an environment with `options`; None without a home."""
    folder = cache_folder()
    if folder is None:
        return None
    made_by = repr((jinja2.__version__, sorted(options.items()))).encode()
    name = f"templates-{blake2b(made_by, digest_size=8).hexdigest()}"
    return TemplateCache(str(folder / name))
