"""Learning an adapter from a run, topics and qrels.

`config` holds the settings, `data` a run with its topics and qrels, `groups` samples topics and passages,
`step` runs the pairs of a step through the model, `loss` compares them, `objective` is all that the loop
knows of a model, `development` chooses the best epoch, `loop` puts it all together. `folder` checks the
output folder and says what the card tells, `state` and `checkpoint` keep what a killed training goes on from,
`activations` saves memory.
"""
