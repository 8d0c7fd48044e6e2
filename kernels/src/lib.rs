//! Device code: a typed builder over MLIR and the kernels written with it.
