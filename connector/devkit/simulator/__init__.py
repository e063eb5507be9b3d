"""Simulated upstream API, for the demo and the tests.

Chance is seeded and time comes from a clock that is passed in, so that a run can be
repeated. `settings` describes the service, `market` computes the levels, `service` answers
requests, `faults` and `reply` spoil answers on purpose, and `server` speaks HTTP.
"""
