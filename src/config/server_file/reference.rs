//! `docs/configuration.md`, made from the tables.

use std::fmt::Write as _;

use crate::config::env::{Effect, VARIABLES};

use super::draft::Draft;
use super::keys::{KEYS, Key, SECTIONS};

const INTRODUCTION: &str = "# Configuration

<!-- Made from the tables in src/config; a test compares it. UPDATE_DOCS=1 cargo test --lib config writes it anew. -->

Explicit environment beats file beats default; an option of the command line beats all three. An unknown key, a value
out of bounds or a contradiction is refused, every fault at once, each with file, line and key. Nothing is clamped.

The annotated file with every default is `configs/arw-server.toml`.

## Forms

- **Time**: one number and one of `ms`, `s`, `m`, `h`, `d`, in quotes: `\"500ms\"`, `\"10s\"`, `\"30d\"`.
- **Size**: one number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB` (or `kB`, `MB`, `GB`, `TB`), in quotes, or plain bytes:
  `\"64KiB\"`, `65536`.
- **Path**: absolute, or relative to the folder that the key names. In the environment and on the command line relative
  paths are seen from the current folder.
- **Boolean** of the environment: `1`, `0`, `true`, `false`, `yes`, `no`, `on`, `off`, in any case.
- **Port** 0 lets the kernel choose a free one.
- An empty variable counts as not set. An empty text in the file means none, where the key allows it.

## Folders

- **State**: `--state-dir`, `ARW_STATE_DIR`, `state_dir`, systemd's `STATE_DIRECTORY`; else `/var/lib/arw` for root,
  `$XDG_STATE_HOME/arw` or `~/.local/state/arw` for others.
- **Configuration**: `--config-dir`, `ARW_CONFIG_DIR`, `config_dir`, the folder that the file was found in, systemd's
  `CONFIGURATION_DIRECTORY`; else `/etc/arw` if it holds `arw-server.toml` or `personas/`, else `<state_dir>/config`.
- **File**: `--config`, `ARW_CONFIG`; else `arw-server.toml` in the configuration folder, if it is there. It has to be a
  plain file of at most 1 MiB that not everyone may write.

## Rules across keys

- The control API stays on loopback: it does not speak TLS yet, and its token would cross the network in the clear.
- `ledger.enable = false` needs `proxy.enable = false` or `ledger.required = false` in the file.
- `[proxy.tls]` is whole or absent: `bind`, `certificate` and `key` together.
- No two listeners share an address. A Unix socket's path has at most 107 bytes.
- `ARW_ADMIN_TOKEN` and `ARW_ADMIN_TOKEN_SHA256` have to agree when both are set.
";

const VARIABLES_HEAD: &str = "
## Environment

An unknown variable that starts with `ARW_` is warned of, with the nearest name. Values are never printed.

| variable | form | default | sets | meaning |
|---|---|---|---|---|
";

/// The reference of all keys and variables, in Markdown.
pub fn reference() -> String {
    let mut out = INTRODUCTION.to_owned();
    let mut defaults = Draft::new();
    for (section, about) in SECTIONS {
        let title = if section.is_empty() { "Top of the file".to_owned() } else { format!("`[{section}]`") };
        let _ = write!(
            out,
            "\n## {title}\n\n{about}\n\n| key | form | default | environment | meaning |\n|---|---|---|---|---|\n"
        );
        for key in KEYS.iter().filter(|key| key.split().0 == *section) {
            let default = match key.path {
                "state_dir" | "config_dir" => "see \"Folders\"".to_owned(),
                _ => format!("`{}`", key.kind.show(&mut defaults)),
            };
            let (name, form, variables, meaning) = (key.split().1, key.kind.form(), variables_of(key), key.meaning);
            let _ = writeln!(out, "| `{name}` | {form} | {default} | {variables} | {meaning} |");
        }
    }
    out.push_str(VARIABLES_HEAD);
    for variable in VARIABLES {
        let sets = match variable.effect {
            Effect::Key(path) => format!("`{path}`"),
            Effect::Part(path) => format!("`{path}` in part"),
            Effect::Place => "which file is read".to_owned(),
            Effect::Persona => "the default persona".to_owned(),
            Effect::Nothing(why) => format!("nothing yet: {why}"),
        };
        let (name, form, default, meaning) = (variable.name, variable.form, variable.default, variable.meaning);
        let _ = writeln!(out, "| `{name}` | {form} | {default} | {sets} | {meaning} |");
    }
    out
}

fn variables_of(key: &Key) -> String {
    let sets = |effect| matches!(effect, Effect::Key(path) | Effect::Part(path) if path == key.path);
    let names: Vec<String> = VARIABLES
        .iter()
        .filter(|variable| sets(variable.effect))
        .map(|variable| format!("`{}`", variable.name))
        .collect();
    names.join(", ")
}
