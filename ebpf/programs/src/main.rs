//! x
#![no_std]
#![no_main]
use aya_ebpf as _;
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
