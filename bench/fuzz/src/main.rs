//! libFuzzer on one target: `HACA_FUZZ_TARGET=onnx haca-fuzz FOLDER [OPTIONS]`. `run.sh` builds it and knows the options.
//!
//! The folder is where the engine keeps inputs that reach new code; the target's seeds are put there first.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use haca_fuzz::{TARGETS, Target, seeds};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("HACA_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = Target::named(&name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("HACA_FUZZ_TARGET is {name:?}, and must be one of {}", names.join(", "));
        std::process::exit(2);
    };
    let folder = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    if let Some(folder) = folder.as_deref().map(Path::new).filter(|folder| folder.is_dir()) {
        for (name, bytes) in seeds::of(target) {
            std::fs::write(folder.join(name), bytes).expect("the folder of inputs can be written");
        }
    }
    TARGET.set(target).expect("the engine starts once");
}

fuzz_target!(init: choose(), |bytes: &[u8]| {
    TARGET.get().expect("it is chosen at the start").run(bytes);
});
