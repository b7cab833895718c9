"""Learning an adapter from a run, topics and qrels: `groups` samples, `loss` measures, `loop` trains,
`record` writes down.
"""
