//! A communicator over real PTX on virtual GPUs: whose memory, whose handles, whose streams; several calls, ranks and communicators at
//! once; captured calls; what is refused before anything is launched; what stops everybody.

mod caller;
mod flight;
mod layer;
mod ranks;
mod refused;
mod replay;
mod stopped;
mod support;
