//! Gate IR to native code through Cranelift.
