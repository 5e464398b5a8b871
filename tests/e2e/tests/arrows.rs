//! The arrows of the house: who may depend on whom. Read from `cargo metadata`, so that a manifest that breaks
//! one fails here and not in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Package name to the names of the packages that it is built from (normal and build dependencies, all
/// levels), for the features that the workspace switches on.
struct Tree {
    direct: BTreeMap<String, BTreeSet<String>>,
    named: BTreeMap<String, BTreeSet<String>>,
}

fn tree() -> Tree {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut names = BTreeMap::new();
    let mut named = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        names.insert(text(&package["id"]), text(&package["name"]));
        let normal = package["dependencies"].as_array().expect("dependencies").iter();
        let normal = normal.filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect();
        named.insert(text(&package["name"]), normal);
    }
    let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let id = text(&node["id"]);
        let built = node["deps"].as_array().expect("deps").iter().filter(|dependency| {
            dependency["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"] != "dev")
        });
        direct.entry(names[&id].clone()).or_default().extend(built.map(|d| names[&text(&d["pkg"])].clone()));
    }
    Tree { direct, named }
}

impl Tree {
    fn below(&self, package: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(name) = open.pop() {
            for next in self.direct.get(&name).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    }

    fn members(&self) -> impl Iterator<Item = &String> {
        self.direct.keys().filter(|name| name.starts_with("keystile-"))
    }
}

#[test]
fn the_pure_crates_know_no_runtime_and_no_aws() {
    let tree = tree();
    for pure in ["keystile-model", "keystile-resp"] {
        let below = tree.below(pure);
        let wrong: Vec<_> = below
            .iter()
            .filter(|name| *name == "tokio" || name.starts_with("aws-") || *name == "hyper")
            .collect();
        assert!(wrong.is_empty(), "{pure} depends on {wrong:?}");
    }
    let resp = tree.below("keystile-resp");
    assert!(!resp.contains("tracing"), "keystile-resp does not log");
}

#[test]
fn only_the_adapters_name_the_sdk() {
    let tree = tree();
    for member in tree.members() {
        let sdk: Vec<_> = tree.named[member].iter().filter(|name| name.starts_with("aws-sdk-")).collect();
        let allowed = ["keystile-aws", "keystile-state"].contains(&member.as_str());
        assert!(allowed || sdk.is_empty(), "{member} names {sdk:?}");
    }
}

#[test]
fn arrows_point_inwards() {
    let tree = tree();
    let forbidden = [
        ("keystile-model", "keystile-"),
        ("keystile-control", "keystile-aws"),
        ("keystile-control", "keystile-state"),
        ("keystile-proxy", "keystile-control"),
        ("keystile-cli", "keystile-control"),
        ("keystile-cli", "keystile-state"),
        ("keystile-api", "keystile-aws"),
        ("keystile-identity", "keystile-aws"),
    ];
    for (from, to) in forbidden {
        let wrong: Vec<_> = tree.below(from).into_iter().filter(|name| name.starts_with(to)).collect();
        assert!(wrong.is_empty(), "{from} depends on {wrong:?}");
    }
}

/// `cargo metadata` also lists what a weak feature names and nothing switches on; `cargo tree` prints what is
/// built.
#[test]
fn there_is_one_tls_stack() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--workspace",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built = String::from_utf8_lossy(&output.stdout).into_owned();
    let packages: BTreeSet<(&str, &str)> =
        built.lines().filter_map(|line| line.split(" (").next()?.split_once(" v")).collect();
    assert!(packages.len() > 100, "cargo tree printed something else: {built}");
    for (name, version) in packages {
        assert!(!["ring", "openssl-sys", "native-tls"].contains(&name), "{name} is built");
        assert!(name != "rustls" || version.starts_with("0.23."), "rustls {version}");
        assert!(name != "hyper" || version.starts_with("1."), "hyper {version}");
    }
}
