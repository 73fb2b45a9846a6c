//! fairlead's agent: what feeds the model, and what carries its plans out.

pub mod admin;
pub mod app;
pub mod asks;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod directory;
pub mod federation;
pub mod file;
pub mod fragments;
pub mod health;
pub mod status;
pub mod text;
pub mod yaml;
