//! Containers that end, and those that are on every node.
