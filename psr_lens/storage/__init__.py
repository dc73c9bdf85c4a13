"""The one format for saved results: named tensors and one JSON header in one checked file.

Steerings, data sets, reports and checkpoints are all such files. They differ in their kind, header fields
and tensors, and their readers check all of these.
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
