//! The API over real sockets.

mod authority;
mod bounds;
mod fixture;
mod gate;
mod routes;
mod stream;
