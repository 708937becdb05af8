//! pip, against a simple index (PEP 503) with one wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{clean, find, run, skip};
use super::stage::{Cast, DENIED_HOST, HOST, PERSONA, Stage};

/// A wheel (PEP 427) of one module.
const MAKE_WHEEL: &str = r#"
import sys, zipfile
info = "arw_sample-1.0.dist-info/"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("arw_sample.py", "WORDS = 'from the wheel'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: arw-sample\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: trial\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "arw_sample.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n")
"#;

/// The real interpreter, not a launcher that looks for its versions in the caller's home.
pub(crate) fn interpreter() -> Option<PathBuf> {
    let launcher = find("python3")?;
    let said = run(Command::new(launcher).args(["-c", "import sys; print(sys.executable)"]));
    Some(PathBuf::from(said.succeeded().stdout.trim()))
}

/// A stage with an index, and a Python with pip; or a printed skip.
fn set() -> Option<(Stage, PathBuf)> {
    let python = interpreter()?;
    if !run(Command::new(&python).args(["-m", "pip", "--version"])).status.success() {
        skip("pip", "this Python has none");
        return None;
    }
    let stage = Stage::set();
    let site = stage.site_folder();
    for folder in ["simple/arw-sample", "files"] {
        std::fs::create_dir_all(site.join(folder)).unwrap();
    }
    let name = "arw_sample-1.0-py3-none-any.whl";
    run(clean(&python, &stage.home()).args(["-c", MAKE_WHEEL]).arg(site.join("files").join(name))).succeeded();
    let page = format!("<!DOCTYPE html><html><body><a href=\"/files/{name}\">{name}</a></body></html>");
    std::fs::write(site.join("simple/arw-sample/index.html"), page).unwrap();
    Some((stage, python))
}

impl Cast<'_> {
    fn pip(&self, arguments: &[&str]) -> Command {
        let mut command = clean(self.program, &self.stage.home());
        command
            .args(["-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"])
            .args(["--retries", "1", "--timeout", "60", "--proxy", &self.stage.proxy_url()])
            .args(["--trusted-host", HOST, "--trusted-host", DENIED_HOST])
            .arg("--cert")
            .arg(&self.stage.ca_file)
            .args(arguments);
        command
    }
}

fn imports(python: &Path, stage: &Stage, folder: &str) -> String {
    let program = format!("import sys; sys.path.insert(0, {folder:?}); import arw_sample; print(arw_sample.WORDS)");
    run(clean(python, &stage.home()).args(["-c", &program])).succeeded().stdout.trim().to_owned()
}

#[test]
fn a_package_is_installed_and_downloaded_through_the_gateway() {
    let Some((stage, python)) = set() else { return };
    for (scheme, index) in [("http", stage.http("/simple/")), ("https", stage.https("/simple/"))] {
        let install = ["install", "-q", "--index-url", &index, "--target", scheme, "arw-sample"];
        run(&mut stage.cast(&python).pip(&install)).succeeded();
        assert_eq!(imports(&python, &stage, scheme), "from the wheel");
        let open = stage.opened(scheme, HOST);
        assert_eq!((&open["persona"], &open["identity"]), (&PERSONA.into(), &"basic".into()));
        let download = ["download", "-q", "--index-url", &index, "--dest", "wheels", "arw-sample==1.0"];
        run(&mut stage.cast(&python).pip(&download)).succeeded();
    }
    assert_eq!(std::fs::read_dir(stage.home().join("wheels")).unwrap().count(), 1);
}

#[test]
fn an_index_that_is_not_allowed_is_reported_as_denied() {
    let Some((stage, python)) = set() else { return };
    let plain = stage.denied_http("/simple/");
    let outcome = run(&mut stage.cast(&python).pip(&["download", "--index-url", &plain, "arw-sample"]));
    outcome.failed().shows("No matching distribution");
    stage.denied("not_allowlisted", DENIED_HOST);
    let index = stage.denied_https("/simple/");
    let outcome = run(&mut stage.cast(&python).pip(&["download", "--index-url", &index, "arw-sample"]));
    stage.denied("not_allowlisted", DENIED_HOST);
    outcome.failed().shows(&format!("403 not_allowlisted {DENIED_HOST}"));
    stage.nothing_arrived();
}
