"""Everything that is kept: named tensors and one JSON header in one checked file.

Steerings, data sets, reports and checkpoints are all such files. They differ in their kind, in which
fields the header has, and in which tensors there are; what reads them checks both.
"""

from psr_lens.storage.container import (
    container_bytes,
    container_path,
    read_container,
    refuse_foreign,
    write_container,
)

__all__ = [
    "container_bytes",
    "container_path",
    "read_container",
    "refuse_foreign",
    "write_container",
]
