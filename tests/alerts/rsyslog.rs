//! What a real rsyslogd understands of us. It is in `.ci/run`; where it is not there, the test says so.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;

use crate::support::{Origin, wait_for};
use crate::{alerts, deny, start};

struct Rsyslogd(Child);

impl Drop for Rsyslogd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Receives on loopback and writes what it understood, field by field, as a line of JSON.
fn rsyslogd(folder: &Path, udp: u16, tcp: u16) -> Option<Rsyslogd> {
    let program = ["/usr/sbin/rsyslogd", "/sbin/rsyslogd"].into_iter().find(|path| Path::new(path).exists())?;
    let out = folder.join("out.jsonl");
    let unix = folder.join("log");
    let config = format!(
        "global(workDirectory=\"{work}\" maxMessageSize=\"64k\")\n\
         module(load=\"imudp\")\nmodule(load=\"imtcp\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         template(name=\"fields\" type=\"list\") {{\n\
           constant(value=\"{{\") property(outname=\"version\" name=\"protocol-version\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"pri\" name=\"pri\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"app\" name=\"app-name\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"procid\" name=\"procid\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"msgid\" name=\"msgid\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"sd\" name=\"structured-data\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"input\" name=\"inputname\" format=\"jsonf\")\n\
           constant(value=\",\") property(outname=\"msg\" name=\"msg\" format=\"jsonf\") constant(value=\"}}\\n\") }}\n\
         ruleset(name=\"remote\") {{ action(type=\"omfile\" file=\"{out}\" template=\"fields\") }}\n\
         input(type=\"imudp\" address=\"127.0.0.1\" port=\"{udp}\" ruleset=\"remote\")\n\
         input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tcp}\" ruleset=\"remote\")\n\
         input(type=\"imuxsock\" socket=\"{unix}\" usePIDFromSystem=\"off\" useSpecialParser=\"off\" parseHostname=\"on\" ruleset=\"remote\")\n",
        work = folder.display(),
        out = out.display(),
        unix = unix.display(),
    );
    let file = folder.join("rsyslog.conf");
    std::fs::write(&file, config).unwrap();
    let child = Command::new(program)
        .args(["-n", "-f"])
        .arg(&file)
        .arg("-i")
        .arg(folder.join("pid"))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    Some(Rsyslogd(child))
}

#[test]
fn a_real_rsyslogd_takes_every_field_apart_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(mut receiver) = rsyslogd(folder.path(), udp, tcp) else {
        println!("SKIP: there is no rsyslogd");
        return;
    };
    let unix = folder.path().join("log");
    wait_for("rsyslogd", || {
        assert!(receiver.0.try_wait().unwrap().is_none(), "rsyslogd ended");
        (unix.exists() && std::net::TcpStream::connect(("127.0.0.1", tcp)).is_ok()).then_some(())
    });
    let route = |name: &str, address: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nsink = \"syslog\"\nseverity = \"critical\"\nfacility = \"local0\"\naddress = \"{address}\"\n"
        )
    };
    let routes = [
        route("udp", &format!("udp://127.0.0.1:{udp}")),
        route("tcp", &format!("tcp://127.0.0.1:{tcp}")),
        route("unix", &format!("unix:{}", unix.display())),
    ];
    let origin = Origin::http();
    let daemon = start(&alerts(&routes.concat()), &origin, |setup| setup);
    deny(&daemon, 3);
    let told = |input: &str| -> Option<Json> {
        let text = std::fs::read_to_string(folder.path().join("out.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        lines.into_iter().find(|line| line["input"] == input && line["msgid"] == "alert.raised")
    };
    let mut events = Vec::new();
    for input in ["imudp", "imtcp", "imuxsock"] {
        let fields = wait_for(input, || told(input));
        assert_eq!(fields["version"], "1", "{fields}");
        assert_eq!(fields["pri"], (16 * 8 + 2).to_string(), "{fields}");
        assert_eq!(
            (fields["app"].as_str(), fields["procid"].as_str()),
            (Some("arw-server"), Some(daemon.pid().to_string().as_str()))
        );
        assert!(fields["sd"].as_str().unwrap().starts_with("[origin software=\"arw-server\" swVersion="), "{fields}");
        let event: Json = serde_json::from_str(fields["msg"].as_str().unwrap().trim())
            .unwrap_or_else(|fault| panic!("{fault}: {fields}"));
        assert_eq!(event["data"]["code"], "policy_denials");
        events.push(event);
    }
    assert!(events.windows(2).all(|pair| pair[0] == pair[1]), "one event, three ways");
}
