//! The API over real sockets.

mod bounds;
mod fixture;
mod gate;
mod routes;
mod stream;
