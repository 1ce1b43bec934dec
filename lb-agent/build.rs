//! Finds the XDP object that goes into the agent.
//!
//! `EVENKEEL_BPF_OBJECT` names it, or says `none`; otherwise it is what `cargo xtask build` leaves in
//! `target/bpf`. Without an object the agent is built all the same, so that its pure parts can be tested on any
//! machine, and says so when it is asked to load its data path.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_bpf_object)");
    println!("cargo::rerun-if-env-changed=EVENKEEL_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let chosen = env::var_os("EVENKEEL_BPF_OBJECT").filter(|v| !v.is_empty());
    if chosen.as_deref().is_some_and(|v| v == "none") {
        return;
    }
    match chosen {
        Some(path) => embed(Path::new(&path)),
        None => embed_built(),
    }
}

/// Embeds what `cargo xtask build` left, if it did.
fn embed_built() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let dir = manifest_dir.join("../target/bpf");
    let object = dir.join("lb.o");
    if object.is_file() {
        embed(&object);
    } else if std::fs::create_dir_all(&dir).is_ok() {
        // Cargo runs this script on every build when it is told to watch a file that does not exist, so it watches
        // the directory where the file will appear.
        println!("cargo::rerun-if-changed={}", dir.display());
    }
}

fn embed(object: &Path) {
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => {
            println!("cargo::rustc-cfg=has_bpf_object");
            println!("cargo::rustc-env=EVENKEEL_BPF_OBJECT_PATH={}", path.display());
        }
        Err(e) => println!("cargo::error=EVENKEEL_BPF_OBJECT: {}: {e}", object.display()),
    }
}
