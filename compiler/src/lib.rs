//! Front end, typed specification and plan of the moe language.
