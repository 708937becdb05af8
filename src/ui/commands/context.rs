//! What the commands start from: where the daemon is, and where its files are.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::{Environment, Faults, Overrides, ServerConfig, load};
use crate::control::{Base, Client, DEFAULT_TCP};
use crate::domain::Secret;
use crate::governance::authority::{Action, Policy, Principal, Question, Resource};
use crate::ui::Failure;
use crate::ui::args::Global;

/// Longest token file, in bytes. 4 KiB: a token and a newline, not somebody's disk.
const MAX_TOKEN_FILE: u64 = 4 << 10;

/// Where things are.
#[derive(Debug)]
pub(super) struct Context {
    /// The daemon.
    pub(super) client: Client,
    /// The settings that a daemon started here would have. A user who may not read the file has none.
    settings: Result<ServerConfig, Faults>,
}

impl Context {
    pub(super) fn new(global: &Global, env: &Environment) -> Result<Self, Failure> {
        let overrides = Overrides { state_dir: global.state_dir.clone(), ..Overrides::default() };
        let settings = load(&overrides, env).map(|loaded| loaded.config);
        let base = base(global, settings.as_ref().ok())?;
        let client = Client::new(base, token(global, env)?);
        Ok(Self { client, settings })
    }

    fn settings(&self) -> Result<&ServerConfig, Failure> {
        self.settings.as_ref().map_err(|faults| Failure::new("the daemon's settings cannot be read").why(first(faults)))
    }

    /// The ledger's folder: `dir` if given, else the daemon's.
    pub(super) fn ledger_dir(&self, dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
        let dir = match dir {
            Some(dir) => dir,
            None => {
                let settings =
                    self.settings().map_err(|failure| failure.advice("name the ledger's folder with --dir"))?;
                settings.ledger.dir.clone()
            }
        };
        readable(&dir)?;
        Ok(dir)
    }

    /// The state folder, and the settings beside it.
    pub(super) fn offline(&self) -> Result<&ServerConfig, Failure> {
        self.settings().map_err(|failure| failure.advice("name the folders with --state-dir and ARW_CONFIG_DIR"))
    }

    /// The policy that the daemon's settings name.
    pub(super) fn policy_file(&self) -> Result<Option<PathBuf>, Failure> {
        let settings = self.settings().map_err(|failure| failure.advice("name the policy's file"))?;
        Ok(settings.control.policy.clone())
    }

    /// Whether the policy that the settings name lets this user do `action`, where no daemon is asked. Settings or a
    /// policy that cannot be read permit nothing.
    pub(super) fn permit(&self, action: Action) -> Result<(), Failure> {
        let failure = || {
            let failure = Failure::new(format!("`{action}` is not permitted"));
            Failure { code: Some("not_permitted".to_owned()), ..failure }
        };
        let file = self.policy_file().map_err(|cause| failure().why(cause))?;
        let policy = Policy::load(file.as_deref()).map_err(|faults| {
            failure().why("the policy is faulty").advice(format!("see `arw-cli policy check`: {}", first(&faults)))
        })?;
        let principal = Principal::Uid(nix::unistd::geteuid().as_raw());
        let ruling = policy.decide(&Question::new(principal.clone(), action, Resource::Daemon));
        if ruling.allowed {
            return Ok(());
        }
        let why = format!("the policy does not let `{principal}` do that ({})", ruling.code);
        Err(failure().why(why).advice("docs/policy-authority.md says how it is granted"))
    }

    /// The configuration folder: `dir` if given, else the daemon's.
    pub(super) fn config_dir(&self, dir: Option<&Path>) -> Result<PathBuf, Failure> {
        match dir {
            Some(dir) => Ok(dir.to_owned()),
            None => {
                let settings =
                    self.settings().map_err(|failure| failure.advice("name the folder after `policy check`"))?;
                Ok(settings.config_dir.clone())
            }
        }
    }
}

fn first(faults: &Faults) -> String {
    faults.0.first().map(ToString::to_string).unwrap_or_default()
}

fn readable(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "run as root or as the daemon's user",
                _ => "name the ledger's folder with --dir, or the state folder with --state-dir",
            };
            Err(Failure::new(format!("cannot read the ledger in `{}`", dir.display())).why(error).advice(advice))
        }
    }
}

fn base(global: &Global, settings: Option<&ServerConfig>) -> Result<Base, Failure> {
    if let Some(text) = &global.base {
        return Base::parse(text).map_err(|fault| Failure::usage("--base is not usable").why(fault));
    }
    let socket = settings.map(|settings| settings.control.unix_socket.clone());
    // A state folder that was named is meant: its daemon, or an error.
    let named = global.state_dir.is_some();
    match socket {
        Some(socket) if named || socket.symlink_metadata().is_ok() => Ok(Base::Unix(socket)),
        _ => {
            let bind = settings.map(|settings| settings.control.bind);
            let text = bind.map_or_else(|| DEFAULT_TCP.to_owned(), |addr| format!("http://{addr}"));
            Base::parse(&text).map_err(|fault| Failure::new("the daemon's address is not usable").why(fault))
        }
    }
}

fn token(global: &Global, env: &Environment) -> Result<Option<Secret<String>>, Failure> {
    if let Some(token) = &global.admin_token {
        return Ok(Some(token.clone()));
    }
    if let Some(path) = &global.admin_token_file {
        return read_token(path).map(Some);
    }
    match env.text("ARW_ADMIN_TOKEN") {
        Ok(token) => Ok(token.map(|text| Secret::new(text.to_owned()))),
        Err(fault) => Err(Failure::usage("the admin token in the environment is not usable").why(fault)),
    }
}

fn read_token(path: &Path) -> Result<Secret<String>, Failure> {
    let failed = || Failure::usage(format!("cannot read the admin token from `{}`", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed().why(error))?;
    file.take(MAX_TOKEN_FILE).read_to_string(&mut text).map_err(|error| failed().why(error))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(failed().why("the file is empty"));
    }
    if token.contains(char::is_whitespace) {
        return Err(failed().why("the file holds more than a token"));
    }
    Ok(Secret::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global() -> Global {
        Global { base: None, admin_token: None, admin_token_file: None, json: false, state_dir: None }
    }

    #[test]
    fn the_socket_is_used_when_it_is_there_and_tcp_otherwise() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = ServerConfig::defaults(folder.path().to_owned(), folder.path().to_owned());
        assert_eq!(base(&global(), Some(&config)), Ok(Base::Tcp("127.0.0.1:8091".to_owned())));
        std::fs::write(folder.path().join("control.sock"), "").expect("write");
        assert_eq!(base(&global(), Some(&config)), Ok(Base::Unix(folder.path().join("control.sock"))));
        assert_eq!(base(&global(), None), Ok(Base::Tcp("127.0.0.1:8091".to_owned())));
    }

    #[test]
    fn a_named_state_folder_is_not_silently_left_for_tcp() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = ServerConfig::defaults(folder.path().to_owned(), folder.path().to_owned());
        let named = Global { state_dir: Some(folder.path().to_owned()), ..global() };
        assert_eq!(base(&named, Some(&config)), Ok(Base::Unix(folder.path().join("control.sock"))));
    }

    #[test]
    fn a_token_file_holds_one_token() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "  secret\n").expect("write");
        assert_eq!(read_token(&path).expect("a token").expose(), "secret");
        for bad in ["", "\n", "two words", "two\nlines"] {
            std::fs::write(&path, bad).expect("write");
            let failure = read_token(&path).expect_err("not a token");
            assert_eq!(failure.exit, 2);
            assert!(bad.trim().is_empty() || !failure.to_string().contains(bad));
        }
    }
}
