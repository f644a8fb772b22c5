//! What every store must do ([`conformance`]), whether it does that in any order of events
//! ([`model`]), and what happens when the engine underneath fails or the process dies ([`crash`]).
