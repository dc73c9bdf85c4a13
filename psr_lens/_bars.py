"""`tqdm`, the bar of every long loop, from the one place that imports it.

It is drawn in a terminal and in a notebook; in a notebook without ipywidgets, as text.
"""

import warnings

with warnings.catch_warnings():
    # Without ipywidgets it asks for them, in front of the first output of a notebook.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
