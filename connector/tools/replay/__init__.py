"""`gex-connector replay`: publish past events again, to topics of their own.

`event_file` reads the events of a file, `plan` looks through the events beforehand, `target`
prepares the topics, `publisher` writes to them, and `command` keeps the pace.
"""
