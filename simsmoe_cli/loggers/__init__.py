"""Passes the events of a training on to experiment trackers: TensorBoard, wandb, trackio, MLflow.

`numbers.py` and `picture.py` turn an event into few numbers and a picture, `subscriber.py` hands
them to the trackers of a run, and there is one file for each tracker. Their libraries are imported
only when a training uses them.
"""
