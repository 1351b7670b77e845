"""Imported by the fork server: loads the solver's libraries once, so that every worker starts with them."""

from lema_local.answers import solver

solver.warm_up()
