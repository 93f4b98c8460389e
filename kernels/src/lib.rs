//! Fixed-point models: import, calibration, exact execution.
