//! The operator's client.

fn main() {
    // A launcher or a self-test of a sandbox is this same program, executed again.
    arw::sandbox::stage::intercept(std::env::args_os());
}
