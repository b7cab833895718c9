"""The embedded demonstration: a small collection, a small language model, and the chain that runs on them."""
