"""One file per thing that is watched in the training process.

Each module has `install(recorder, patches, observed)`: it replaces or hooks what it needs
through `patches` (or registers the undoing there) and calls the recorder. The folder is the
registry: a new file is a new probe.
"""

from __future__ import annotations

import importlib
import pkgutil

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder


def install_all(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Install every probe; one that fails is noted and the others go on."""
    for module in pkgutil.iter_modules(__path__):
        try:
            probe = importlib.import_module(f"{__name__}.{module.name}")
            probe.install(recorder, patches, observed)
        except Exception as error:  # a guest never breaks the host's program
            observed.problem(f"probe {module.name} could not start: {error!r}")
