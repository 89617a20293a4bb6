"""Several devices for one step: what is computed where, and where the replicas of a step meet.

The assembly is the one of a single device: models, optimizers, transforms, metrics, loss scales, random streams and
counters live on the first device. Each further device holds copies of the models' variables. A step is traced once for
each device on its rows of the batch; gradients are summed; whatever changes state runs once, on the first device, by
the code that one device runs; then the copies are renewed.
"""
