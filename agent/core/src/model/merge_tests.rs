//! Rows of rules.
