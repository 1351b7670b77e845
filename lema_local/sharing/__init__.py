"""Corrections as a data set that others can use: written as a hub-ready folder, and read back in.

`schema` says what a row is, `export` writes a run's folder with its `card`, `rows` reads files of rows, and `intake`
makes records of them, judged anew. Only here and in `lema_local.datasets` is `datasets` imported.
"""
