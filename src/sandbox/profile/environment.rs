//! The environment inside, rebuilt from nothing.

use crate::sandbox::Text;
use crate::sandbox::plan::{PROXY_INSIDE, Terminal};

use super::system::{HOME, USER};

/// The variables that send proxy-aware programs to the gateway, in both cases: some read one, some the other.
pub fn proxy_variables() -> Vec<(Text, Text)> {
    let proxy = format!("http://{PROXY_INSIDE}");
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        variables.push((Text::from(name), Text::from(proxy.as_str())));
        variables.push((Text::from(name.to_ascii_lowercase()), Text::from(proxy.as_str())));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((Text::from(name), Text::from("localhost,127.0.0.1,::1")));
    }
    // Node reads the others only with this (Node 24).
    variables.push((Text::from("NODE_USE_ENV_PROXY"), Text::from("1")));
    variables
}

/// What every command gets; `own` replaces and adds, and cannot take the proxy away.
pub(super) fn rebuilt(own: &[(Text, Text)], terminal: Terminal, proxied: bool) -> Vec<(Text, Text)> {
    let mut all: Vec<(Text, Text)> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", HOME),
        ("USER", USER),
        ("LOGNAME", USER),
        ("SHELL", "/bin/sh"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("TERM", if terminal == Terminal::Own { "xterm-256color" } else { "dumb" }),
    ]
    .map(|(name, value)| (Text::from(name), Text::from(value)))
    .to_vec();
    let proxy = if proxied { proxy_variables() } else { Vec::new() };
    for (name, value) in own.iter().chain(&proxy) {
        all.retain(|(other, _)| other != name);
        all.push((name.clone(), value.clone()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'v>(all: &'v [(Text, Text)], name: &str) -> Vec<&'v [u8]> {
        all.iter().filter(|(other, _)| other.as_bytes() == name.as_bytes()).map(|(_, value)| value.as_bytes()).collect()
    }

    #[test]
    fn own_variables_replace_and_add_but_not_the_proxy() {
        let own = [("PATH", "/x"), ("KEY", "1"), ("https_proxy", "http://elsewhere:1")];
        let own = own.map(|(name, value)| (Text::from(name), Text::from(value)));
        let all = rebuilt(&own, Terminal::None, true);
        assert_eq!(value(&all, "PATH"), [b"/x"]);
        assert_eq!(value(&all, "KEY"), [b"1"]);
        assert_eq!(value(&all, "https_proxy"), [b"http://127.0.0.1:9080"]);
        assert_eq!(value(&all, "NO_PROXY").len(), 1);
    }
}
