//! Whole-system tests: one specification through every back end.
