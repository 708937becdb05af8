//! Merging: explicit environment beats file beats default, and the command line beats all three.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::domain::{PersonaId, TokenHash};

use super::checks;
use super::env::{Effect, Environment, VARIABLES, variable_fault};
use super::located::read_file;
use super::server_file::{self, Draft, FILE_NAME, Source, echo};
use super::{DefaultPersona, Fault, Faults, ServerConfig};

/// Largest file. The annotated one has about 8 KiB; what is above this is not a configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Shortest admin token that draws no warning, in bytes: 128 random bits in base64.
const LEAST_TOKEN_BYTES: usize = 22;

/// Settings that the command line gives. Relative paths are seen from the current folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--config`: the file; must exist.
    pub config_file: Option<PathBuf>,
    /// `--config-dir`.
    pub config_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--log`: the log filter.
    pub log_filter: Option<String>,
}

/// Checked settings, and what an operator should know about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings. Every path in it is absolute.
    pub config: ServerConfig,
    /// One line each: names that mean nothing, and settings that weaken the gateway. Never a secret.
    pub warnings: Vec<String>,
    /// The file that was read; `None` when there is none.
    pub config_file: Option<PathBuf>,
}

/// Finds the file, reads it, and merges it with the environment and the command line.
///
/// # Errors
/// Every fault found, of the file and of the environment together. Nothing is then to be started:
/// there is no repaired or partial configuration.
pub fn load(args: &Overrides, env: &Environment) -> Result<Loaded, Faults> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    env.survey(&mut warnings);

    let mut draft = Draft::new();
    let places = Places::find(args, env, &mut faults);
    if let Some(file) = &places.file
        && let Some(text) = gather(read_file(file, MAX_FILE_BYTES), &mut faults)
    {
        server_file::apply(&mut draft, file, &text, &mut faults);
    }
    apply_environment(&mut draft, env, &mut faults, &mut warnings);
    apply_arguments(&mut draft, args, env, &mut faults);
    draft.config.default_persona = gather(default_persona(env, &mut warnings), &mut faults).flatten();
    places.settle(&mut draft, env, &mut faults);
    checks::check(&draft, &mut faults, &mut warnings);

    if faults.is_empty() {
        Ok(Loaded { config: draft.finish(), warnings, config_file: places.file })
    } else {
        Err(Faults(faults))
    }
}

fn gather<T>(result: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

/// Where the folders and the file are, as far as that is known before the file is read.
struct Places {
    file: Option<PathBuf>,
    /// The configuration folder unless the file, a variable or an option names another.
    config_dir: Option<PathBuf>,
}

impl Places {
    fn find(args: &Overrides, env: &Environment, faults: &mut Vec<Fault>) -> Self {
        let given = |arg: &Option<PathBuf>, name: &str, faults: &mut Vec<Fault>| match arg {
            Some(path) => env.absolute(path).ok(),
            None => gather(env.path(name), faults).flatten(),
        };
        let state_dir = given(&args.state_dir, "ARW_STATE_DIR", faults).or_else(|| usual_state_dir(env));
        let config_dir = given(&args.config_dir, "ARW_CONFIG_DIR", faults)
            .or_else(|| usual_config_dir(env))
            .or_else(|| state_dir.map(|state| state.join("config")));
        let unseen = args.config_file.as_ref().filter(|file| env.absolute(file).is_err());
        faults.extend(
            unseen.map(|file| Fault::new(file, None, "", "the path is relative and the current folder is unknown")),
        );
        let named = given(&args.config_file, "ARW_CONFIG", faults);
        let file = named.or_else(|| {
            let file = config_dir.as_ref()?.join(FILE_NAME);
            // Only a file that is surely not there is passed over: one that cannot be looked at may
            // hold the very setting that closes something.
            let absent = matches!(file.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound);
            (!absent).then_some(file)
        });
        Self { file, config_dir }
    }

    /// Fills in the folders that neither file nor variable nor option named.
    fn settle(&self, draft: &mut Draft, env: &Environment, faults: &mut Vec<Fault>) {
        const NEITHER: &str = "write an absolute path";
        for (key, folder) in [("state_dir", &draft.config.state_dir), ("config_dir", &draft.config.config_dir)] {
            if draft.set.contains_key(key) && draft.readable(&[key]) && !folder.is_absolute() {
                faults
                    .push(draft.fault(key, format!("`{}` is relative", echo(&folder.to_string_lossy()))).hint(NEITHER));
            }
        }
        if !draft.set.contains_key("state_dir") {
            match usual_state_dir(env) {
                Some(folder) => draft.config.state_dir = folder,
                None => {
                    let hint = "set ARW_STATE_DIR, or `state_dir` in the file";
                    faults
                        .push(variable_fault("HOME", "it is not set, so there is no folder for the state").hint(hint));
                }
            }
        }
        if !draft.set.contains_key("config_dir") {
            // The folder that the file was found in stays, even when the file moved the state elsewhere.
            let beside_file = self.config_dir.clone().filter(|folder| self.file == Some(folder.join(FILE_NAME)));
            let state = &draft.config.state_dir;
            draft.config.config_dir =
                beside_file.or_else(|| usual_config_dir(env)).unwrap_or_else(|| state.join("config"));
        }
    }
}

/// systemd's `StateDirectory=`, `/var/lib/arw` for root, else the XDG Base Directory Specification.
fn usual_state_dir(env: &Environment) -> Option<PathBuf> {
    if let Some(folder) = listed_folder(env, "STATE_DIRECTORY") {
        return Some(folder);
    }
    if env.is_root() {
        return Some(PathBuf::from("/var/lib/arw"));
    }
    let absolute = |name| env.text(name).ok().flatten().map(PathBuf::from).filter(|path| path.is_absolute());
    // The specification: a relative XDG_STATE_HOME is to be ignored.
    let state_home = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state_home.map(|folder| folder.join("arw"))
}

/// systemd's `ConfigurationDirectory=`, else `/etc/arw` if something of ours is there.
fn usual_config_dir(env: &Environment) -> Option<PathBuf> {
    listed_folder(env, "CONFIGURATION_DIRECTORY").or_else(|| {
        let folder = env.system_config_dir();
        let ours = [FILE_NAME, "personas"].iter().any(|name| folder.join(name).symlink_metadata().is_ok());
        ours.then(|| folder.to_owned())
    })
}

/// systemd.exec(5): several folders are divided by colons; the first is the one.
fn listed_folder(env: &Environment, name: &str) -> Option<PathBuf> {
    let first = env.text(name).ok().flatten()?.split(':').next()?;
    Some(PathBuf::from(first)).filter(|path| path.is_absolute())
}

fn apply_environment(draft: &mut Draft, env: &Environment, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) {
    for variable in VARIABLES {
        let Effect::Key(path) = variable.effect else { continue };
        let key = server_file::find(path).expect("a test holds that every variable names a key");
        let value = match path {
            // Paths of the environment are seen from the current folder, as a shell's are.
            "state_dir" | "config_dir" | "log.dir" | "runtimes.manifest" | "control.policy" => {
                gather(env.path(variable.name), faults)
                    .flatten()
                    .map(|path| path.into_os_string().into_string().map_err(|_| ()))
            }
            _ => gather(env.text(variable.name), faults).flatten().map(|text| Ok(text.to_owned())),
        };
        match value {
            None => {}
            Some(Err(())) => faults.push(variable_fault(variable.name, "the value is not UTF-8")),
            Some(Ok(text)) => {
                let set = server_file::apply_text(draft, key, &text, Source::Variable(variable.name));
                faults.extend(set.err().into_iter().flatten());
            }
        }
    }
    gather(apply_ports(draft, env, warnings), faults);
    for (name, key, unit) in TIMES {
        gather(apply_time(draft, env, name, key, unit), faults);
    }
    gather(apply_admin_token(draft, env, warnings), faults);
}

/// The variables that set a part of an address.
fn apply_ports(draft: &mut Draft, env: &Environment, warnings: &mut Vec<String>) -> Result<(), Fault> {
    if let Some(text) = env.text("ARW_BIND")? {
        let address = if text == "localhost" { "127.0.0.1" } else { text };
        let ip: IpAddr = address.parse().map_err(|_| {
            variable_fault("ARW_BIND", format!("`{}` is not an address", echo(text)))
                .hint("write 127.0.0.1 or ::1; the port is ARW_PORT")
        })?;
        draft.config.control.bind.set_ip(ip);
        draft.set.insert("control.bind", Source::Variable("ARW_BIND"));
    }
    if let Some(port) = port(env, "ARW_PORT")? {
        draft.config.control.bind.set_port(port);
        draft.set.entry("control.bind").or_insert(Source::Variable("ARW_PORT"));
    }
    if let Some(port) = port(env, "ARW_EGRESS_PROXY_PORT")? {
        let before = draft.config.proxy.bind.len();
        let mut moved: Vec<SocketAddr> = Vec::with_capacity(before);
        for mut addr in draft.config.proxy.bind.drain(..) {
            addr.set_port(port);
            if !moved.contains(&addr) {
                moved.push(addr);
            }
        }
        if moved.len() < before {
            warnings.push(
                "`ARW_EGRESS_PROXY_PORT` makes several listeners of `proxy.bind` the same; one is kept".to_owned(),
            );
        }
        if before == 0 {
            warnings.push("`ARW_EGRESS_PROXY_PORT` has no effect: `proxy.bind` is empty".to_owned());
        }
        draft.config.proxy.bind = moved;
        draft.set.insert("proxy.bind", Source::Variable("ARW_EGRESS_PROXY_PORT"));
    }
    Ok(())
}

fn port(env: &Environment, name: &'static str) -> Result<Option<u16>, Fault> {
    let Some(text) = env.text(name)? else { return Ok(None) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.map(Some).ok_or_else(|| {
        variable_fault(name, format!("`{}` is not a port", echo(text))).hint("write a number from 1 to 65535")
    })
}

/// Variables that are a plain number in a unit of their own: name, key, unit.
const TIMES: [(&str, &str, &str); 3] = [
    ("ARW_AUTONOMY_MAX_RUNTIME", "runtimes.max_runtime", "s"),
    ("ARW_RUNTIME_RESTART_WINDOW_SEC", "runtimes.restart_window", "s"),
    ("ARW_RUNTIME_HEALTH_INTERVAL_MS", "runtimes.health_interval", "ms"),
];

/// Sets a time whose variable may leave the unit out.
fn apply_time(
    draft: &mut Draft,
    env: &Environment,
    name: &'static str,
    key: &'static str,
    unit: &'static str,
) -> Result<(), Fault> {
    let Some(text) = env.text(name)? else { return Ok(()) };
    let text = text.trim();
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let timed = if bare { format!("{text}{unit}") } else { text.to_owned() };
    let key = server_file::find(key).expect("a test holds that every variable names a key");
    let set = server_file::apply_text(draft, key, &timed, Source::Variable(name));
    set.err().and_then(|mut faults| faults.pop()).map_or(Ok(()), Err)
}

fn apply_admin_token(draft: &mut Draft, env: &Environment, warnings: &mut Vec<String>) -> Result<(), Fault> {
    const NAME: &str = "ARW_ADMIN_TOKEN";
    const KEY: &str = "control.admin_token_sha256";
    let Some(token) = env.text(NAME)? else { return Ok(()) };
    // RFC 6750 section 2.1: a token in a header has neither spaces nor control characters. A line end
    // left by `$(cat file)`-like tricks would make a token that nobody can ever present.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(variable_fault(
            NAME,
            "the token has a space, a line end or another character that no header carries",
        )
        .hint("make one with: openssl rand -base64 32"));
    }
    if token.len() < LEAST_TOKEN_BYTES {
        warnings.push(format!("`{NAME}` is shorter than {LEAST_TOKEN_BYTES} characters and may be guessed"));
    }
    let hash = TokenHash::of(token.as_bytes()).to_hex();
    let other = matches!(draft.set.get(KEY), Some(Source::Variable(_))) && draft.readable(&[KEY]);
    if other && draft.config.control.admin_token_sha256.as_ref() != Some(&hash) {
        return Err(variable_fault(NAME, "it disagrees with `ARW_ADMIN_TOKEN_SHA256`").hint("set only one of them"));
    }
    draft.config.control.admin_token_sha256 = Some(hash);
    draft.set.insert(KEY, Source::Variable(NAME));
    Ok(())
}

fn apply_arguments(draft: &mut Draft, args: &Overrides, env: &Environment, faults: &mut Vec<Fault>) {
    let folders = [
        ("state_dir", "--state-dir", args.state_dir.as_deref()),
        ("config_dir", "--config-dir", args.config_dir.as_deref()),
    ];
    for (path, flag, value) in folders {
        let Some(folder) = value else { continue };
        draft.set.insert(path, Source::Flag(flag));
        let Ok(folder) = env.absolute(folder) else {
            faults.push(draft.fault(path, "the path is relative and the current folder is unknown"));
            continue;
        };
        match path {
            "state_dir" => draft.config.state_dir = folder,
            _ => draft.config.config_dir = folder,
        }
    }
    if let (Some(filter), Some(key)) = (&args.log_filter, server_file::find("log.filter")) {
        let set = server_file::apply_text(draft, key, filter, Source::Flag("--log"));
        faults.extend(set.err().into_iter().flatten());
    }
}

fn default_persona(env: &Environment, warnings: &mut Vec<String>) -> Result<Option<DefaultPersona>, Fault> {
    let posture = env.text("ARW_NET_POSTURE")?.map(|text| text.trim().to_owned());
    let list = env.text("ARW_NET_ALLOWLIST")?;
    let name = env.text("ARW_PERSONA_ID")?;
    if posture.is_none() && list.is_none() {
        if name.is_some() {
            warnings.push("`ARW_PERSONA_ID` has no effect without `ARW_NET_POSTURE` or `ARW_NET_ALLOWLIST`".to_owned());
        }
        return Ok(None);
    }
    let id = PersonaId::parse(name.unwrap_or("default"))
        .map_err(|fault| variable_fault("ARW_PERSONA_ID", fault.to_string()))?;
    if posture.as_deref() == Some("") {
        return Err(variable_fault("ARW_NET_POSTURE", "it holds only spaces").hint("write off, allowlist or public"));
    }
    let allow: Vec<String> =
        list.unwrap_or_default().split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    if list.is_some() && allow.is_empty() {
        return Err(variable_fault("ARW_NET_ALLOWLIST", "it names no host")
            .hint("list hosts with commas between them, or set ARW_NET_POSTURE=off"));
    }
    Ok(Some(DefaultPersona { id, posture, allow }))
}

#[cfg(test)]
mod tests;
