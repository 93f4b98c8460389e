//! Where a node gets the evidence that binds its keys to the machine it runs on. One file for each kind of issuer; a real
//! TEE's will ask the kernel for a quote over the same [`Binding`](haca_wire::evidence::Binding).

pub mod development;
