"""What answers are worth: accuracy, average precision, overlap, calibration, each with its interval."""
