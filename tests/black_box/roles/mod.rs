//! The roles of `config/nats-server.conf`: what each can and cannot do, by trying it.

mod clients;
mod daemons;
mod guarded;
mod intruders;
mod keeper;
mod services;
