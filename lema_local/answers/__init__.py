"""Final answers: extract them from a solution, compare them with the gold answer, say which rule decided.

`sympy` and `math_verify` are imported in this folder only.
"""
