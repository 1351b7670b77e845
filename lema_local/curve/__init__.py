"""The learning curve: arms trained on nested subsets of a run's corrections, with several seeds.

Reads   RUN                accepted corrections and everything before them, taken over and never made anew
Writes  RUN/curve/         size-N/seed-S/: a run folder for each training of all arms, up to its evaluation
                           curve.json, curve.md, curve.svg, curve.png: what came of them

`points` plans and trains, `findings` says what may be concluded, `writing` writes it down.
"""
