"""`tqdm`, the progress bar of every long loop, imported in this one place.

It works in terminals and notebooks; without ipywidgets, a notebook shows it as text.
"""

import warnings

with warnings.catch_warnings():
    # Without ipywidgets it asks for them, above a notebook's first output.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
