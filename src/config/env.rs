//! The environment: read once, here and nowhere else, against one table of names.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use super::Fault;
use super::located::nearest;
use super::server_file::{ENVIRONMENT, echo};

/// Unknown names that are warned of one by one; of the rest only the number is told.
const MAX_UNKNOWN_SHOWN: usize = 16;

/// What a variable does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Sets one key of the file.
    Key(&'static str),
    /// Sets a part of one key of the file, or sets it in another form.
    Part(&'static str),
    /// Says where files lie.
    Place,
    /// Describes the default persona.
    Persona,
    /// Known, but nothing here obeys it; why.
    Nothing(&'static str),
}

/// One variable of the table.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    pub(super) form: &'static str,
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
}

/// Read by recipes of `justfile`, not by the daemon.
const SMOKE: Effect = Effect::Nothing("the smoke tests of the justfile read it, the daemon does not");

/// Every variable.
#[rustfmt::skip]
pub(super) static VARIABLES: &[Variable] = &[
    var("ARW_BIND", Effect::Part("control.bind"), "address", "127.0.0.1", "address of the control API; loopback only"),
    var("ARW_PORT", Effect::Part("control.bind"), "port, 0 to 65535", "8091", "port of the control API; 0 lets the kernel choose"),
    var("ARW_CONFIG", Effect::Place, "path", "<config_dir>/arw-server.toml if there", "the configuration file; one that is named must exist"),
    var("ARW_CONFIG_DIR", Effect::Key("config_dir"), "path", "see \"Folders\"", "folder of `arw-server.toml` and `personas/`"),
    var("ARW_STATE_DIR", Effect::Key("state_dir"), "path", "see \"Folders\"", "folder of the ledger, keys and tokens"),
    var("ARW_LOGS_DIR", Effect::Key("log.dir"), "path", "none", "also log as JSON lines to `arw-server.log` in this folder"),
    var("ARW_ADMIN_TOKEN", Effect::Part("control.admin_token_sha256"), "secret", "none", "the admin token itself; prefer the hash"),
    var("ARW_ADMIN_TOKEN_SHA256", Effect::Key("control.admin_token_sha256"), "64 hexadecimal digits", "none", "SHA-256 of the admin token"),
    var("ARW_EGRESS_PROXY_ENABLE", Effect::Key("proxy.enable"), "boolean", "true", "whether the proxy listens"),
    var("ARW_EGRESS_PROXY_PORT", Effect::Part("proxy.bind"), "port, 0 to 65535", "9080", "port of every plain TCP listener of the proxy; 0 lets the kernel choose"),
    var("ARW_EGRESS_LEDGER_ENABLE", Effect::Key("ledger.enable"), "boolean", "true", "whether records are written; off is honoured only with the proxy off or `ledger.required = false` in the file"),
    var("ARW_EGRESS_BLOCK_IP_LITERALS", Effect::Key("proxy.block_ip_literals"), "boolean", "true", "refuse literal addresses that no rule opens"),
    var("ARW_DNS_GUARD_ENABLE", Effect::Key("proxy.dns_guard"), "boolean", "true", "refuse DNS past the gateway"),
    var("ARW_DISABLE_HTTP3", Effect::Nothing("the gateway carries no UDP, so HTTP/3 never leaves through it"), "boolean", "true", "HTTP/3"),
    var("ARW_NET_POSTURE", Effect::Persona, "posture", "allowlist", "posture of the default persona"),
    var("ARW_NET_ALLOWLIST", Effect::Persona, "host patterns, by comma", "none", "hosts that the default persona may reach"),
    var("ARW_PERSONA_ID", Effect::Persona, "id", "default", "name of the default persona"),
    var("ARW_PERSONA_ENABLE", Effect::Key("personas.enable"), "boolean", "false", "arm proposals and feedback of personas whose review is recorded"),
    var("ARW_PERF_PRESET", Effect::Key("runtimes.preset"), "preset", "eco", "resource preset of runtimes"),
    var("ARW_POLICY_FILE", Effect::Key("control.policy"), "path", "none", "`policy.json` or a Cedar bundle: who may do what on the control API"),
    var("ARW_AUTONOMY_MAX_RUNTIME", Effect::Part("runtimes.max_runtime"), "time, or seconds", "none", "wall time of one automation run"),
    var("ARW_RUNTIME_MANIFEST", Effect::Key("runtimes.manifest"), "path", "<config_dir>/runtime/runtimes.toml", "the runtimes' manifest"),
    var("ARW_RUNTIME_RESTART_MAX", Effect::Key("runtimes.restart_max"), "number", "3", "restarts of a runtime per window"),
    var("ARW_RUNTIME_RESTART_WINDOW_SEC", Effect::Part("runtimes.restart_window"), "seconds", "600", "the window of the restart budget"),
    var("ARW_RUNTIME_HEALTH_INTERVAL_MS", Effect::Part("runtimes.health_interval"), "milliseconds", "10000", "cadence of health probes"),
    var("ARW_REQUIRE_SIGNED_BUNDLES", Effect::Key("bundles.require_signed"), "boolean", "true", "refuse recipes and bundles without a trusted signature"),
    var("RUNTIME_SMOKE_ALLOW_CPU", SMOKE, "boolean", "false", "run the CPU stage"),
    var("RUNTIME_SMOKE_ALLOW_GPU", SMOKE, "boolean", "false", "run the GPU stage"),
    var("RUNTIME_SMOKE_CPU_POLICY", SMOKE, "skip, auto, require or simulate", "auto", "what a missing CPU stage means"),
    var("RUNTIME_SMOKE_GPU_POLICY", SMOKE, "skip, auto, require or simulate", "skip", "what a missing GPU stage means"),
    var("RUNTIME_SMOKE_DRY_RUN", SMOKE, "boolean", "false", "say what would be done"),
    var("SMOKE_TIMEOUT_SECS", SMOKE, "seconds", "600", "time for the whole smoke test"),
];

/// Names that others define and that are read as well: where folders lie, how output is to look.
const FOREIGN: [&str; 8] = [
    "HOME",
    "XDG_STATE_HOME",
    "STATE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "NO_COLOR",
    "TERM",
];

const fn var(
    name: &'static str,
    effect: Effect,
    form: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, effect, form, default, meaning }
}

/// What the process was started with: variables, user, folder. Taken once, then handed down, so that
/// nothing else depends on the process and a test can be somebody else.
///
/// An empty value counts as not set: a unit file or a shell cannot always unset a variable.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    euid: u32,
    current_dir: Option<PathBuf>,
    system_config_dir: PathBuf,
}

impl Environment {
    /// The environment of this process. Only names that mean something here are kept.
    pub fn capture() -> Self {
        let ours = |name: &OsStr| {
            let known = |name: &str| VARIABLES.iter().any(|known| known.name == name) || FOREIGN.contains(&name);
            name.as_encoded_bytes().starts_with(b"ARW_") || name.to_str().is_some_and(known)
        };
        Self {
            variables: std::env::vars_os().filter(|(name, _)| ours(name)).collect(),
            euid: nix::unistd::geteuid().as_raw(),
            current_dir: std::env::current_dir().ok(),
            system_config_dir: PathBuf::from("/etc/arw"),
        }
    }

    /// An environment made by hand: those variables, an ordinary user (uid 65534), the folder `/`.
    pub fn of<N: AsRef<str>, V: AsRef<str>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Self {
            variables: variables
                .into_iter()
                .map(|(name, value)| (OsString::from(name.as_ref()), OsString::from(value.as_ref())))
                .collect(),
            euid: 65_534,
            current_dir: Some(PathBuf::from("/")),
            system_config_dir: PathBuf::from("/etc/arw"),
        }
    }

    /// The same environment for the user `euid`.
    #[must_use]
    pub fn for_user(mut self, euid: u32) -> Self {
        self.euid = euid;
        self
    }

    /// The same environment with `folder` in the place of `/etc/arw`.
    #[must_use]
    pub fn with_system_config_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.system_config_dir = folder.into();
        self
    }

    /// The value of `name`; `None` when it is not set or empty.
    ///
    /// # Errors
    /// When the value is not UTF-8. The value is not repeated.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).ok_or_else(|| variable_fault(name, "the value is not UTF-8")),
        }
    }

    /// The value of `name` as an absolute path, seen from the folder that the process was started in.
    ///
    /// # Errors
    /// When it is relative and that folder is gone.
    pub(super) fn path(&self, name: &str) -> Result<Option<PathBuf>, Fault> {
        self.raw(name).map(|value| self.absolute(Path::new(value))).transpose().map_err(|()| {
            variable_fault(name, "the path is relative and the current folder is unknown")
                .hint("write an absolute path")
        })
    }

    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf, ()> {
        match &self.current_dir {
            _ if path.is_absolute() => Ok(path.to_owned()),
            Some(current) => Ok(current.join(path)),
            None => Err(()),
        }
    }

    pub(super) const fn is_root(&self) -> bool {
        self.euid == 0
    }

    pub(super) fn system_config_dir(&self) -> &Path {
        &self.system_config_dir
    }

    /// Warns of names that nobody knows and of known ones that nothing obeys. Values are never told: a
    /// misspelt name may hold a secret.
    pub(super) fn survey(&self, warnings: &mut Vec<String>) {
        let names: Vec<&str> = VARIABLES.iter().map(|known| known.name).collect();
        let mut unknown = 0_usize;
        for name in self.variables.keys().filter(|name| self.raw_os(name).is_some()) {
            let name = name.to_string_lossy();
            let known = VARIABLES.iter().find(|known| known.name == name);
            if let Some(Variable { effect: Effect::Nothing(why), name, .. }) = known {
                warnings.push(format!("`{name}` has no effect here: {why}"));
            } else if known.is_none() && name.starts_with("ARW_") {
                unknown += 1;
                if unknown <= MAX_UNKNOWN_SHOWN {
                    warnings.push(match nearest(&name, &names) {
                        Some(near) => format!("`{}` is not a known variable; did you mean `{near}`?", echo(&name)),
                        None => format!("`{}` is not a known variable", echo(&name)),
                    });
                }
            }
        }
        if unknown > MAX_UNKNOWN_SHOWN {
            warnings.push(format!("{} more variables starting with `ARW_` are not known", unknown - MAX_UNKNOWN_SHOWN));
        }
    }

    fn raw(&self, name: &str) -> Option<&OsStr> {
        self.raw_os(OsStr::new(name))
    }

    fn raw_os(&self, name: &OsStr) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&OsString> = self.variables.keys().collect();
        f.debug_struct("Environment").field("names", &names).field("euid", &self.euid).finish_non_exhaustive()
    }
}

/// Whether the tests are to write the generated pages anew.
#[cfg(test)]
pub(super) fn update_docs() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// A fault of a variable.
pub(super) fn variable_fault(name: &str, message: impl Into<String>) -> Fault {
    Fault::new(Path::new(ENVIRONMENT), None, name, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn every_variable_stands_once_and_names_a_real_key() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES[..index].iter().all(|earlier| earlier.name != variable.name), "{}", variable.name);
            if let Effect::Key(path) | Effect::Part(path) = variable.effect {
                assert!(super::super::server_file::find(path).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn a_misspelt_name_is_warned_of_with_the_nearest_one_and_without_its_value() {
        let env = Environment::of([("ARW_ADMIN_TOKN", "hunter2"), ("ARW_XYZZY_PLUGH", "y"), ("HOME", "/home/a")]);
        let mut warnings = Vec::new();
        env.survey(&mut warnings);
        assert_eq!(
            warnings,
            [
                "`ARW_ADMIN_TOKN` is not a known variable; did you mean `ARW_ADMIN_TOKEN`?",
                "`ARW_XYZZY_PLUGH` is not a known variable",
            ]
        );
        assert!(!format!("{env:?}").contains("hunter2"));
    }

    #[test]
    fn a_variable_that_nothing_obeys_is_told_only_when_it_is_set() {
        let mut warnings = Vec::new();
        Environment::of([("ARW_DISABLE_HTTP3", "")]).survey(&mut warnings);
        assert!(warnings.is_empty());
        Environment::of([("ARW_DISABLE_HTTP3", "x")]).survey(&mut warnings);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("has no effect here"), "{warnings:?}");
    }

    #[test]
    fn a_flood_of_unknown_names_makes_a_bounded_number_of_one_line_warnings() {
        let names: Vec<(String, &str)> = (0..1_000).map(|n| (format!("ARW_\n{n}"), "x")).collect();
        let mut warnings = Vec::new();
        Environment::of(names).survey(&mut warnings);
        assert_eq!(warnings.len(), MAX_UNKNOWN_SHOWN + 1);
        assert!(warnings.iter().all(|warning| !warning.contains('\n')));
        assert!(warnings.last().expect("there").starts_with("984 more"));
    }

    #[test]
    fn a_value_that_is_not_utf8_is_a_fault_that_names_the_variable_only() {
        let mut env = Environment::of([("ARW_BIND", "x")]);
        env.variables.insert("ARW_BIND".into(), OsString::from_vec(vec![b's', 0xff]));
        let fault = env.text("ARW_BIND").expect_err("not UTF-8");
        assert_eq!(fault.to_string(), "environment: ARW_BIND: the value is not UTF-8");
    }

    #[test]
    fn the_process_is_captured_without_foreign_variables() {
        let env = Environment::capture();
        assert!(env.text("PATH").expect("absent").is_none());
        assert_eq!(env.euid, nix::unistd::geteuid().as_raw());
    }
}
