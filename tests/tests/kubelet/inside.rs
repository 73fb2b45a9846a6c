//! What a container sees.
