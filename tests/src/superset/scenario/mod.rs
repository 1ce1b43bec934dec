//! The scenarios, one a file: what users do, what happens meanwhile, and what must hold.

pub mod busy;
pub mod dashboard;
pub mod databases;
pub mod doctor;
pub mod login;
pub mod long_query;
pub mod loss;
pub mod rolling;
pub mod scale;
pub mod tls;
pub mod websocket;
