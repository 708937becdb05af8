//! `arw-server` with everything on.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use arw::domain::TokenHash;

use super::{Launch, ORIGIN_HOST, OTHER_RULES, PERSONA, TLS_HOST, TOKEN};

pub(super) fn launch(dir: &Path) -> anyhow::Result<Launch> {
    let port = super::free_port()?;
    let personas = dir.join("configs/personas");
    std::fs::create_dir_all(&personas)?;
    std::fs::write(personas.join(format!("{PERSONA}.toml")), persona()?)?;
    let server = dir.join("configs/server.toml");
    std::fs::write(&server, server_settings(port))?;

    let mut command = Command::new(env!("CARGO_BIN_EXE_arw-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ARW_")) {
        command.env_remove(name);
    }
    command
        .current_dir(dir)
        .env("ARW_CONFIG", server)
        .env("ARW_CONFIG_DIR", dir.join("configs"))
        .env("ARW_STATE_DIR", dir.join("state"))
        .env("ARW_PORT", super::free_port()?.to_string());
    Ok(Launch { command, port: Some(port), credentials: Some(super::basic_credentials()) })
}

fn server_settings(port: u16) -> String {
    format!(
        "[proxy]\nbind = [\"127.0.0.1:{port}\"]\n\n\
         [dns.hosts]\n\"{ORIGIN_HOST}\" = [\"127.0.0.1\"]\n\"{TLS_HOST}\" = [\"127.0.0.1\"]\n"
    )
}

fn persona() -> anyhow::Result<String> {
    let hash = TokenHash::of(TOKEN.as_bytes()).to_hex();
    let mut text = format!(
        "id = \"{PERSONA}\"\nposture = \"allowlist\"\ntokens = [{{ name = \"bench\", sha256 = \"{hash}\" }}]\n"
    );
    for index in 0..OTHER_RULES {
        write!(text, "\n[[allow]]\nid = \"other-{index}\"\nhosts = [\"service-{index}.example.com\"]\n")?;
    }
    for (id, host, schemes) in [("origin", ORIGIN_HOST, "\"tcp\", \"http\""), ("tls", TLS_HOST, "\"https\"")] {
        write!(
            text,
            "\n[[allow]]\nid = \"{id}\"\nhosts = [\"{host}\"]\ncidrs = [\"127.0.0.0/8\"]\nports = [\"1-65535\"]\n\
             schemes = [{schemes}]\n"
        )?;
    }
    Ok(text)
}
