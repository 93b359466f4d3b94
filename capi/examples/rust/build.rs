//! Finds libswell through pkg-config, without crates.
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    let output = Command::new("pkg-config")
        .args(["--libs-only-L", "swell"])
        .output()
        .expect("pkg-config runs");
    assert!(output.status.success(), "pkg-config does not know swell; set PKG_CONFIG_PATH");
    let flags = String::from_utf8(output.stdout).expect("pkg-config prints text");
    for folder in flags.split_whitespace().filter_map(|flag| flag.strip_prefix("-L")) {
        println!("cargo:rustc-link-search=native={}", folder);
    }
    println!("cargo:rustc-link-lib=dylib=swell");
}
