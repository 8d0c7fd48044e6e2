//! Loads a bundle and runs it on a device: virtual or CUDA.
