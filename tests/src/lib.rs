//! Whole-system tests live in this crate's `tests` folder.
