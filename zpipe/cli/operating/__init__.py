"""Commands that start, show or change a pipeline that runs. What they do is in `supervisor`, `operate` and `monitor`."""
