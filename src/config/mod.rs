//! Configuration files to checked types.
