//! What the commands about signed material share: who acts, who is trusted, and writing a signature.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::{User, getuid};

use crate::config::ServerConfig;
use crate::domain::{Clock, SystemClock};
use crate::governance::signed::{KeyFault, PrivateKey, Trust, Unsigned};
use crate::ui::Failure;
use crate::ui::args::SignArgs;

/// The user that runs this, as the record shows it.
pub(super) fn who() -> String {
    let uid = getuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// What this host believes now.
pub(super) fn trust(settings: &ServerConfig) -> Trust {
    let unsigned = if settings.require_signed_bundles { Unsigned::Refuse } else { Unsigned::Accept };
    Trust::load(&settings.config_dir, unsigned, SystemClock.now())
}

/// As [`trust`], but what is not signed is refused whatever the settings say.
pub(super) fn strict_trust(settings: &ServerConfig) -> Trust {
    Trust::load(&settings.config_dir, Unsigned::Refuse, SystemClock.now())
}

/// The key of a command line.
pub(super) fn key(args: &SignArgs) -> Result<PrivateKey, Failure> {
    let name = args.signer.as_ref().map(|name| name.as_str());
    PrivateKey::load(&args.key, name).map_err(|fault| {
        let failure = Failure::new("there is no key to sign with").because(&fault);
        match fault {
            KeyFault::Open(_) => failure.advice("chmod 600 it, and have a new one made if others could read it"),
            KeyFault::Nameless(_) => failure.advice("name the signer with --signer"),
            KeyFault::Form(_) => failure.advice("`arw-cli recipes keygen NAME --key FILE` makes one"),
            KeyFault::Io { .. } | KeyFault::Other { .. } | KeyFault::Name(_) | KeyFault::Randomness(_) => failure,
        }
    })
}

/// Puts a signature, or a file of signers, in place: whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot write `{}`", path.display())).why(error);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(temporary).map_err(failed)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(temporary, path));
    if written.is_err() {
        // The failure is what counts; a stray file beside it is only untidy.
        let _ = std::fs::remove_file(temporary);
    }
    written.map_err(failed)
}
