//! From a checked specification and its plan to a bundle of kernels.
