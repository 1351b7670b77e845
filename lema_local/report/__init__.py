"""The report of a run: read its folder once (`reading`), draw charts (`charts`), fill templates (`rendering`).

A pure function of the run folder: it changes nothing there, asks nobody, and tells of an unfinished or damaged
run what is there and what is not. matplotlib is imported here only.
"""
