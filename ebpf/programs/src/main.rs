//! The programs that agents load, in one ELF.
#![no_std]
#![no_main]

mod entries;
