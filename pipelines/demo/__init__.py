"""`make demo`: the main job on real input, told live; nothing outside this package imports it.

The story is in `script.py`; it speaks to the stack through the small ports declared there.
"""
