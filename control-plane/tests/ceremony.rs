//! `haca zk ceremony` from the first file to the key, as people on several machines run it.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

#[allow(dead_code)]
// It takes no shipped model: the smallest of them has more constraints than a test has time for.
mod tool;

use std::path::{Path, PathBuf};

use haca_verifier::Policy;
use haca_verifier::zk::VerifyingKey;
use tempfile::TempDir;

/// Of more than 2^10 constraints and less than 2^11.
const MODEL: &str = "trees3.haca";
const OTHER: &str = "trees1.haca";
const LOG: &str = "11";
const BEACON: &str = "0x00112233445566778899aabbccddeeff";

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden").join(name)
}

/// Two contributions and the beacon to a file `NAME-0`; the last is `NAME-finished`.
fn contributions(dir: &Path, name: &str) -> PathBuf {
    let stage = |stage: &str| dir.join(format!("{name}-{stage}"));
    haca!("zk", "ceremony", "contribute", stage("0"), "-o", stage("1")).done();
    haca!("zk", "ceremony", "contribute", stage("1"), "-o", stage("2"), "--entropy", "dice").done();
    let finished = stage("finished");
    let iterations = ["--iterations-log2", "4"];
    haca!(
        "zk",
        "ceremony",
        "finish",
        stage("2"),
        "--beacon",
        BEACON,
        iterations[0],
        iterations[1],
        "-o",
        finished
    )
    .done();
    finished
}

#[test]
fn a_ceremony_ends_in_a_key_that_production_accepts_and_names_who_was_wrong() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    haca!("zk", "ceremony", "new", "--powers", LOG, "-o", dir.join("powers-0")).done();
    let powers = contributions(dir, "powers");
    let trees = model(MODEL);
    let unfinished = dir.join("powers-2");
    haca!("zk", "ceremony", "new", "--model", trees, "--powers", unfinished, "-o", dir.join("key-0"))
        .failed(&["powers-2", "not finished", "haca zk ceremony finish"]);
    haca!("zk", "ceremony", "new", "--model", trees, "--powers", powers, "-o", dir.join("key-0")).done();
    let finished = contributions(dir, "key");

    let said = haca!("zk", "ceremony", "verify", finished).done();
    assert!(said.contains("not checked: give --model and --powers"), "{said}");
    let (file, keys) = (dir.join("model.vk"), dir.join("keys"));
    let verified = haca!(
        "zk", "ceremony", "verify", finished, "--model", trees, "--powers", powers, "--key", file, "--keys",
        keys, "--json"
    );
    let json = verified.json();
    let key = VerifyingKey::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["key"], key.id().to_string());
    assert_eq!(json["contributions"].as_array().unwrap().len(), 3);
    assert_eq!(json["contributions"][2]["beacon"]["value"], BEACON[2..]);
    assert_eq!(key.check_policy(Policy::PRODUCTION), Ok(()));
    assert_eq!(std::fs::read_dir(keys).unwrap().count(), 2);

    haca!("zk", "ceremony", "verify", finished, "--model", model(OTHER), "--powers", powers)
        .failed(&["key-finished", "another model"]);
    haca!("zk", "ceremony", "contribute", finished, "-o", dir.join("more")).failed(&["finished"]);
    haca!("zk", "ceremony", "contribute", dir.join("key-1"), "-o", finished).failed(&["give another name"]);
    // A record of the second contribution, one bit changed on its way.
    let mut changed = std::fs::read(&powers).unwrap();
    changed[16 + 98 + 3 * 192 + 100] ^= 1;
    std::fs::write(dir.join("changed"), changed).unwrap();
    haca!("zk", "ceremony", "verify", dir.join("changed")).failed(&["changed", "contribution 2 is wrong"]);
    haca!("zk", "ceremony", "verify", trees).failed(&["not a file of a ceremony"]);
}
