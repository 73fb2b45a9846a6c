//! The `fairlead` command: the agent, and what asks about it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    fairlead::cli::main()
}
