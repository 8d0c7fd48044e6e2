//! The bundle file: manifest, PTX per kernel and target, hashes.
