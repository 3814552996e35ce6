"""Beyond the paper, in closed form: projection, moments, ridge, calibration. Imports system, reference, method."""
