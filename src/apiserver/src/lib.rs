//! Room `apiserver`.
