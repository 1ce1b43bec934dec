//! `lb-agent`: see `lb-agent --help`.

fn main() -> std::process::ExitCode {
    lb_agent::cli::main()
}
