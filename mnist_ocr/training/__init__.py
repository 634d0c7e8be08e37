"""Ray Train: from a labelled dataset to a model directory."""
