"""The command line: one small module per verb. It parses, calls the library, prints; it never computes.

`__main__` finds the verb, `options` makes flags of dataclass fields, `shared_options`
holds those of several verbs, `frame` turns errors into one line and an exit code.
"""
