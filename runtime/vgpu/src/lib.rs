//! A virtual GPU cluster that executes PTX on the CPU.
