//! The network from outside: one suite for every kind of stream, then addresses, services, names,
//! NodePorts, datagrams and what guests may not do.

mod admit;
mod bandwidth;
mod budget;
mod dns;
mod doors;
mod drain;
mod families;
mod machine;
mod names;
mod pods;
mod policy;
mod services;
mod streams;
mod support;
mod traffic;
mod udp;
mod visitors;
