"""The conformance suite: does a consumer program print exactly what was committed?

`python -m tests.conformance -- COMMAND` runs a program through every case, on a broker of
its own. docs/how-to/write-a-consumer.md says what the program must print.
"""
