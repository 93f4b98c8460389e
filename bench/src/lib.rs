//! Load generator and side-by-side comparisons for HACA.
