//! Gate IR: its meaning, its reference interpreter and its derivative.
