//! npm, against a registry of two files.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::program::{clean, find, run};
use super::stage::{Cast, DENIED_HOST, HOST, Stage};

impl Cast<'_> {
    fn npm(&self, registry: &str, arguments: &[&str]) -> Command {
        let home = self.stage.home();
        let mut command = clean(self.program, &home);
        command.args(["--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0", "--fetch-timeout=60000"]);
        command.arg(format!("--registry={registry}")).arg(format!("--cafile={}", self.stage.ca_file.display()));
        // A cache that knows the package would ask nobody.
        command.arg(format!("--cache={}", home.join(format!("cache-{}", registry.len())).display()));
        self.stage.proxied(&mut command);
        command.args(arguments);
        command
    }
}

/// A stage with a registry of one package, and npm; or a printed skip.
fn set() -> Option<(Stage, PathBuf)> {
    find("node")?;
    let npm = find("npm")?;
    let stage = Stage::set();
    let source = stage.home().join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("package.json"), r#"{"name":"arw-sample","version":"1.0.0","main":"index.js"}"#)
        .unwrap();
    std::fs::write(source.join("index.js"), "module.exports = 'from the tarball';\n").unwrap();
    run(clean(&npm, &stage.home()).args(["pack", "--silent", "./source"])).succeeded();
    let folder = stage.site_folder().join("npm/arw-sample");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::rename(stage.home().join("arw-sample-1.0.0.tgz"), folder.join("arw-sample-1.0.0.tgz")).unwrap();
    Some((stage, npm))
}

/// The package's document; it names the tarball by a whole URL.
fn publish(stage: &Stage, registry: &str) {
    let document = json!({
        "name": "arw-sample",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {
            "name": "arw-sample",
            "version": "1.0.0",
            "main": "index.js",
            "dist": {"tarball": format!("{registry}arw-sample/arw-sample-1.0.0.tgz")},
        }},
    });
    std::fs::write(stage.site_folder().join("npm/arw-sample/index.html"), document.to_string()).unwrap();
}

fn project(stage: &Stage, name: &str) -> String {
    let folder = stage.home().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("package.json"), format!(r#"{{"name":"{name}","version":"1.0.0"}}"#)).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn a_package_is_installed_through_the_gateway() {
    let Some((stage, npm)) = set() else { return };
    for (scheme, registry) in [("http", stage.http("/npm/")), ("https", stage.https("/npm/"))] {
        publish(&stage, &registry);
        let folder = project(&stage, scheme);
        run(&mut stage.cast(&npm).npm(&registry, &["install", "--prefix", &folder, "arw-sample"])).succeeded();
        let file = stage.home().join(scheme).join("node_modules/arw-sample/index.js");
        assert!(std::fs::read_to_string(file).unwrap().contains("from the tarball"));
        stage.opened(scheme, HOST);
    }
}

#[test]
fn a_registry_that_is_not_allowed_is_reported_as_denied() {
    let Some((stage, npm)) = set() else { return };
    for registry in [stage.denied_http("/npm/"), stage.denied_https("/npm/")] {
        let folder = project(&stage, "denied");
        let outcome = run(&mut stage.cast(&npm).npm(&registry, &["install", "--prefix", &folder, "arw-sample"]));
        outcome.failed().shows("403");
        stage.denied("not_allowlisted", DENIED_HOST);
    }
    stage.nothing_arrived();
}

#[test]
fn a_tarball_on_a_host_that_is_not_allowed_stays_there() {
    let Some((stage, npm)) = set() else { return };
    publish(&stage, &stage.denied_https("/npm/"));
    let folder = project(&stage, "astray");
    let registry = stage.https("/npm/");
    // npm rewrites a tarball's host to the registry's by default; this registry's tarballs lie elsewhere.
    let arguments = ["install", "--prefix", &folder, "--replace-registry-host=never", "arw-sample"];
    run(&mut stage.cast(&npm).npm(&registry, &arguments)).failed();
    stage.denied("not_allowlisted", DENIED_HOST);
    assert!(stage.https.seen().iter().all(|request| !request.path.ends_with(".tgz")));
}
