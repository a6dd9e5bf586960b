"""Our seconds beside those of other projects' own code, on the same data, in one run on one machine.

Nothing of a peer is copied here. A driver of ours runs in a process of its own, imports the peer's modules from where
the user has them, and times the peer's own trainer, loaders, model and evaluation, as another driver times ours.
"""
