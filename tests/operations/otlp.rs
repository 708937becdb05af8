//! Traces at a collector: what the daemon posts, read as the OpenTelemetry protocol defines it.

use crate::support::{Origin, Setup};

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_traces_refuses_the_key() {
    let said = Setup::new().set("telemetry.otlp_endpoint", "http://127.0.0.1:4318").refused();
    assert!(said.contains("telemetry.otlp_endpoint: otlp_not_built"), "{said}");
}

#[test]
fn a_collector_that_is_not_named_is_not_there() {
    let origin = Origin::http();
    let daemon = crate::series::daemon(&origin);
    let families = crate::series::families(&daemon);
    assert!(families["arw_otlp_spans"].samples.is_empty());
}

#[test]
fn a_url_that_is_no_collector_is_refused_and_not_repeated() {
    for (url, why) in [
        ("http://collector.example:4318", "`http` is for this machine only"),
        ("http://user:hunter2@127.0.0.1:4318", "a user or a password"),
        ("https://collector.example/?key=hunter2", "no query"),
        ("4318", "neither `http` nor `https`"),
    ] {
        let said = Setup::new().set("telemetry.otlp_endpoint", url).refused();
        assert!(said.contains("telemetry.otlp_endpoint") && said.contains(why), "{url}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[cfg(feature = "otlp")]
mod built {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{SocketAddr, TcpListener};
    use std::time::{Duration, Instant};

    use nix::sys::signal::Signal;
    use serde_json::{Value as Json, json};

    use crate::series::{PERSONA, families};
    use crate::support::certificates::Authority;
    use crate::support::daemon::token_of;
    use crate::support::origin::Seen;
    use crate::support::{Client, Daemon, Origin, Script, Setup, can_launch};
    use crate::{program, well};

    /// Longest wait for a batch: it may linger for five seconds, and a failed one up to a minute; other builds share the machine.
    const LONG: Duration = Duration::from_secs(150);
    /// Longest text of an attribute.
    const MAX_TEXT: usize = 256;
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A daemon that exports to `collector` and whose persona may reach `origin`.
    fn setup(origin: &Origin, collector: SocketAddr) -> Setup {
        let rule = format!(
            "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\", \"tcp\"]\n",
            origin.port()
        );
        Setup::new()
            .host("origin.test", &["127.0.0.1"])
            .persona(PERSONA, &rule)
            .set("telemetry.otlp_endpoint", format!("http://{collector}"))
    }

    fn collector() -> Origin {
        let collector = Origin::http();
        collector.on("/v1/traces", Script::ok("{\"partialSuccess\":{}}"));
        collector
    }

    /// Every span that has come, each request read strictly.
    fn spans(collector: &Origin) -> Vec<Json> {
        collector.seen().iter().flat_map(read).collect()
    }

    fn wait_for_span(collector: &Origin, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        wait(what, || spans(collector).into_iter().find(&wanted))
    }

    fn span_of(collector: &Origin, seq: u64) -> Json {
        wait_for_span(collector, "the span of a decision", |span| {
            attributes(span).get("arw.ledger.seq") == Some(&json!(seq.to_string()))
        })
    }

    /// Keys and values of `attributes`, whatever kind of value they have.
    fn attributes(of: &Json) -> BTreeMap<String, Json> {
        let value = |attribute: &Json| attribute["value"].as_object().unwrap().values().next().unwrap().clone();
        let all = of["attributes"].as_array().unwrap();
        all.iter().map(|attribute| (attribute["key"].as_str().unwrap().to_owned(), value(attribute))).collect()
    }

    fn counted(daemon: &Daemon, outcome: &str) -> f64 {
        let families = families(daemon);
        let samples = &families["arw_otlp_spans"].samples;
        samples.iter().find(|sample| sample.labels["outcome"] == outcome).expect("an outcome").value
    }

    /// The spans of one `POST`, after every field of it was held against the protocol (`opentelemetry-proto` 1.x, JSON
    /// encoding). What the protocol does not have is refused.
    fn read(seen: &Seen) -> Vec<Json> {
        assert_eq!(seen.request_line(), "POST /v1/traces HTTP/1.1");
        assert_eq!(seen.fields("content-type"), ["application/json"]);
        let body: Json = serde_json::from_slice(&seen.body).expect("JSON");
        fields(&body, &["resourceSpans"], &[]);
        let mut spans = Vec::new();
        for group in list(&body["resourceSpans"]) {
            fields(group, &["resource", "scopeSpans", "schemaUrl"], &[]);
            fields(&group["resource"], &["attributes"], &[]);
            check_attributes(&group["resource"]["attributes"]);
            let resource = attributes(&group["resource"]);
            assert_eq!(resource["service.name"], "arw-server");
            assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(resource["host.name"], json!(nix::unistd::gethostname().unwrap().to_string_lossy()));
            assert_eq!(resource["service.instance.id"].as_str().unwrap().len(), 36);
            assert!(group["schemaUrl"].as_str().unwrap().starts_with("https://opentelemetry.io/schemas/1."));
            for scope in list(&group["scopeSpans"]) {
                fields(scope, &["scope", "spans", "schemaUrl"], &[]);
                fields(&scope["scope"], &["name", "version"], &[]);
                spans.extend(list(&scope["spans"]).iter().cloned());
            }
        }
        assert!(!spans.is_empty() && spans.len() <= 512, "{}", spans.len());
        spans.iter().for_each(check_span);
        spans
    }

    fn check_span(span: &Json) {
        fields(
            span,
            &["traceId", "spanId", "flags", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes"],
            &["parentSpanId", "events", "droppedEventsCount", "links", "status"],
        );
        check_id(&span["traceId"], 32);
        check_id(&span["spanId"], 16);
        if let Some(parent) = span.get("parentSpanId") {
            check_id(parent, 16);
            assert_ne!(parent, &span["spanId"]);
        }
        assert!(span["flags"].as_u64().unwrap() <= 0x3ff, "{span:#}");
        let name = span["name"].as_str().unwrap();
        assert!(!name.is_empty() && name.len() <= 32, "{span:#}");
        assert!((1..=5).contains(&span["kind"].as_u64().unwrap()), "{span:#}");
        assert!(nanos(&span["startTimeUnixNano"]) <= nanos(&span["endTimeUnixNano"]), "{span:#}");
        check_attributes(&span["attributes"]);
        for event in span.get("events").map(list).into_iter().flatten() {
            fields(event, &["timeUnixNano", "name", "attributes"], &[]);
            nanos(&event["timeUnixNano"]);
            check_attributes(&event["attributes"]);
        }
        for link in span.get("links").map(list).into_iter().flatten() {
            fields(link, &["traceId", "spanId"], &[]);
            check_id(&link["traceId"], 32);
            check_id(&link["spanId"], 16);
        }
        if let Some(status) = span.get("status") {
            fields(status, &["code"], &["message"]);
            assert_eq!(status["code"], 2);
            assert!(attributes(span).contains_key("error.type"), "{span:#}");
        }
    }

    /// An object with all of `must`, and of `may` what it likes.
    fn fields(of: &Json, must: &[&str], may: &[&str]) {
        let there: BTreeSet<&str> = of.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(must.iter().all(|key| there.contains(key)), "{of:#}");
        assert!(there.iter().all(|key| must.contains(key) || may.contains(key)), "{of:#}");
    }

    fn list(value: &Json) -> &Vec<Json> {
        value.as_array().expect("a list")
    }

    fn check_id(id: &Json, digits: usize) {
        let id = id.as_str().expect("a text");
        assert!(id.len() == digits && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        assert!(id.bytes().any(|byte| byte != b'0'), "{id}");
    }

    /// `fixed64` in JSON is a text of digits.
    fn nanos(time: &Json) -> u64 {
        let nanos = time.as_str().expect("a text").parse().expect("a number");
        // After 2020 and before 2200: micro- or milliseconds would be off by far.
        assert!((1_577_836_800_000_000_000..7_258_118_400_000_000_000).contains(&nanos), "{nanos}");
        nanos
    }

    fn check_attributes(all: &Json) {
        let mut keys = BTreeSet::new();
        for attribute in list(all) {
            fields(attribute, &["key", "value"], &[]);
            let key = attribute["key"].as_str().unwrap();
            assert!(keys.insert(key), "`{key}` stands twice");
            let value = attribute["value"].as_object().unwrap();
            assert_eq!(value.len(), 1, "{attribute:#}");
            match value.iter().next().map(|(kind, value)| (kind.as_str(), value)).unwrap() {
                ("stringValue", value) => assert!(value.as_str().unwrap().len() <= MAX_TEXT, "{attribute:#}"),
                ("intValue", value) => drop(value.as_str().unwrap().parse::<i64>().unwrap()),
                (kind, _) => panic!("no kind of value that is used here: {kind}"),
            }
        }
    }

    /// That `span` says what the ledger's `open` (or `deny`) line says.
    fn agrees(span: &Json, line: &Json) {
        let said = attributes(span);
        for (key, field) in [
            ("server.address", "host"),
            ("arw.persona", "persona"),
            ("arw.identity", "identity"),
            ("arw.decision", "decision"),
            ("arw.code", "code"),
            ("arw.via", "via"),
            ("arw.rule", "rule"),
        ] {
            assert_eq!(said.get(key).unwrap_or(&Json::Null), &line[field], "{key}: {span:#}");
        }
        assert_eq!(said["server.port"], json!(line["port"].to_string()));
        let client = line["client"].as_str().unwrap();
        let (address, port) = (said["client.address"].as_str().unwrap(), said["client.port"].as_str().unwrap());
        assert_eq!(format!("{address}:{port}"), client);
    }

    #[test]
    fn exchanges_denials_and_tunnels_become_spans_that_lead_to_their_lines() {
        let (origin, echo, collector) = (Origin::http(), Origin::echo(), collector());
        let rule = format!(
            "[[allow]]\nid = \"echo\"\nhosts = [\"echo.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"tcp\"]\n",
            echo.port()
        );
        let rules = format!(
            "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\"]\n{rule}",
            origin.port()
        );
        let daemon = Daemon::start(
            setup(&origin, collector.addr())
                .host("echo.test", &["127.0.0.1"])
                .persona(PERSONA, &rules)
                // The ledger may have it, the collector may not.
                .set("ledger.record_query", true),
        );
        let url = format!("http://origin.test:{}/canary-path?token=canary-query", origin.port());
        let credentials = Daemon::credentials(PERSONA);
        let more = format!(
            "{credentials}Authorization: Bearer canary-token\r\nCookie: id=canary-cookie\r\nX-ARW-Project: nightly\r\nTraceparent: {PARENT}\r\n"
        );
        let mut client = Client::connect(daemon.proxy);
        assert_eq!(client.get(&url, &more).status, 200);
        let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
        assert!(open["path"].as_str().unwrap().contains("canary-query"), "{open}");
        // What the upstream gets is what the client sent.
        let sent = origin.seen_at("/canary-path?token=canary-query");
        assert_eq!(sent.fields("traceparent"), [PARENT]);
        let denied = client.get("http://denied.test/canary-denied?token=canary-query", &more);
        assert_eq!(denied.status, 403);
        let mut tunnel = Client::connect(daemon.proxy);
        let answer = tunnel.connect_to(&format!("echo.test:{}", echo.port()), &credentials);
        assert_eq!(answer.status, 200);
        tunnel.send("canary-body");
        assert_eq!(tunnel.read(11), b"canary-body");
        drop(tunnel);

        let seq = open["seq"].as_u64().unwrap();
        let (close, span) = (daemon.wait_for_close(seq), span_of(&collector, seq));
        agrees(&span, &open);
        let said = attributes(&span);
        assert_eq!((&span["kind"], &span["name"]), (&json!(3), &json!("GET")));
        assert_eq!(said["arw.ledger.close_seq"], json!(close["seq"].to_string()));
        assert_eq!(said["arw.bytes.down"], json!(close["bytes_down"].to_string()));
        assert_eq!(said["http.request.method"], "GET");
        assert_eq!(said["http.response.status_code"], "200");
        assert_eq!((&said["network.peer.address"], &said["network.type"]), (&json!("127.0.0.1"), &json!("ipv4")));
        assert_eq!(said["network.peer.port"], json!(origin.port().to_string()));
        assert_eq!(said["arw.project"], "nightly");
        let micros = |line: &Json| arw::domain::Timestamp::parse(line["time"].as_str().unwrap()).unwrap().unix_micros();
        assert_eq!(nanos(&span["startTimeUnixNano"]), u64::try_from(micros(&open) * 1_000).unwrap());
        assert_eq!(nanos(&span["endTimeUnixNano"]), u64::try_from(micros(&close) * 1_000).unwrap());

        let span_of_denial = span_of(&collector, denied.decision());
        agrees(&span_of_denial, &daemon.ledger_line(denied.decision()));
        let said = attributes(&span_of_denial);
        assert_eq!((&said["arw.decision"], &said["arw.code"]), (&json!("deny"), &json!("not_allowlisted")));
        assert_eq!(said["http.response.status_code"], "403");
        assert_eq!((&span_of_denial["kind"], span_of_denial.get("status")), (&json!(2), None));
        for span in [&span, &span_of_denial] {
            assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(&PARENT[3..35]), &json!(&PARENT[36..52])));
            assert_eq!(span["flags"].as_u64().unwrap() & 0x300, 0x300, "its parent is elsewhere");
        }

        let open = daemon.wait_for_ledger("the tunnel", |line| line["kind"] == "open" && line["host"] == "echo.test");
        let span = span_of(&collector, open["seq"].as_u64().unwrap());
        agrees(&span, &open);
        assert_eq!((&span["name"], &span["kind"], span.get("parentSpanId")), (&json!("tunnel"), &json!(3), None));
        assert_eq!(attributes(&span).get("http.request.method"), None);

        let count = spans(&collector).len();
        wait("its count", || (counted(&daemon, "exported") == count as f64).then_some(()));
        assert_eq!((counted(&daemon, "dropped"), counted(&daemon, "rejected")), (0.0, 0.0));
        for secret in ["canary", &token_of(PERSONA), "/path"] {
            let found = collector.seen().iter().any(|seen| String::from_utf8_lossy(&seen.body).contains(secret));
            assert!(!found, "`{secret}` left for the collector");
        }
        let ids: BTreeSet<String> = spans(&collector).iter().map(|span| span["spanId"].to_string()).collect();
        assert_eq!(ids.len(), spans(&collector).len(), "each span once");
    }

    #[test]
    fn what_curl_does_is_told_before_the_daemon_ends() {
        let Some(mut curl) = program("curl") else { return };
        let (origin, collector) = (Origin::http(), collector());
        let mut daemon = Daemon::start(setup(&origin, collector.addr()));
        let url = format!("http://origin.test:{}/page", origin.port());
        let user = format!("{PERSONA}:{}", token_of(PERSONA));
        let proxy = format!("http://{}", daemon.proxy);
        well(curl.args(["-fsS", "--max-time", "60", "--proxy", &proxy, "--proxy-user", &user, &url]));
        let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
        daemon.wait_for_close(open["seq"].as_u64().unwrap());
        // At once: it has not lingered for as long as a batch may.
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_for_exit(), Some(0));
        agrees(&span_of(&collector, open["seq"].as_u64().unwrap()), &open);
    }

    #[test]
    fn a_forged_or_doubled_traceparent_is_nobodys_parent() {
        let (origin, collector) = (Origin::http(), collector());
        let daemon = Daemon::start(setup(&origin, collector.addr()));
        let credentials = Daemon::credentials(PERSONA);
        let other = PARENT.replace("4bf9", "beef");
        let mut seqs = Vec::new();
        for fields in [
            format!("traceparent: {}\r\n", PARENT.to_uppercase()),
            format!("traceparent: {PARENT}-more\r\n"),
            format!("traceparent: 00-{}-00f067aa0ba902b7-01\r\n", "0".repeat(32)),
            format!("traceparent: {PARENT}\r\ntraceparent: {other}\r\n"),
            // What a client calls its own correlation comes first.
            format!("traceparent: {PARENT}\r\nX-ARW-Corr: job-7\r\n"),
        ] {
            let mut client = Client::connect(daemon.proxy);
            let answer = client.get("http://denied.test/", &format!("{credentials}{fields}"));
            assert_eq!(answer.status, 403, "{fields}");
            seqs.push(answer.decision());
        }
        for seq in seqs {
            let span = span_of(&collector, seq);
            assert_eq!(span.get("parentSpanId"), None, "{span:#}");
            assert!(!span["traceId"].as_str().unwrap().starts_with("4bf92f35"), "{span:#}");
        }
    }

    #[test]
    fn what_a_client_sends_is_bounded_and_makes_no_names() {
        let (origin, collector) = (Origin::http(), collector());
        let daemon = Daemon::start(setup(&origin, collector.addr()));
        let host = vec!["x".repeat(60); 4].join(".");
        let project = "p".repeat(4_000);
        let mut client = Client::connect(daemon.proxy);
        client.send(format!(
            "FROBNICATE http://{host}/{} HTTP/1.1\r\nHost: {host}\r\n{}X-ARW-Project: {project}\r\n\r\n",
            "y".repeat(8_000),
            Daemon::credentials(PERSONA)
        ));
        let answer = client.answer_to("FROBNICATE");
        assert_eq!(answer.status, 403);
        // Read strictly, bounds and all.
        let span = span_of(&collector, answer.decision());
        let said = attributes(&span);
        assert_eq!((&span["name"], &said["http.request.method"]), (&json!("HTTP"), &json!("_OTHER")));
        assert_eq!(said["server.address"], json!(host));
        assert!(!span.to_string().contains("FROBNICATE") && !span.to_string().contains("yyyy"), "{span:#}");
    }

    #[test]
    fn a_collector_that_is_slow_or_talks_nonsense_slows_nothing() {
        let hold = || Origin::raw(Script::quiet().then_hold());
        let http = |answer: &str| {
            let collector = Origin::http();
            collector.on("/v1/traces", Script::raw(answer.to_owned()));
            collector
        };
        let partial = "{\"partialSuccess\":{\"rejectedSpans\":\"1\",\"errorMessage\":\"x\"}}";
        // What each is counted as; nothing while it is tried again.
        for (collector, fate) in [
            (hold(), None),
            (Origin::raw(Script::early("\0\u{1}nonsense\r\n\r\n").then_close()), None),
            (http("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"), None),
            (http("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"), Some("rejected")),
            (
                http("HTTP/1.1 302 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
                Some("rejected"),
            ),
            (http(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{partial}", partial.len())), Some("rejected")),
            (http("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>"), Some("exported")),
        ] {
            let origin = Origin::http();
            let mut daemon = Daemon::start(setup(&origin, collector.addr()));
            let url = format!("http://origin.test:{}/page", origin.port());
            let mut client = Client::connect(daemon.proxy);
            assert_eq!(client.get(&url, &Daemon::credentials(PERSONA)).status, 200);
            collector.wait_for_connections(1);
            // In the middle of it everything else goes on.
            for _ in 0..20 {
                assert_eq!(client.get(&url, &Daemon::credentials(PERSONA)).status, 200);
            }
            match fate {
                Some(fate) => wait(fate, || (counted(&daemon, fate) >= 1.0).then_some(())),
                None => assert_eq!((counted(&daemon, "exported"), counted(&daemon, "rejected")), (0.0, 0.0)),
            }
            let lines = daemon.ledger_lines().len();
            assert!(lines >= 21, "{lines}");
            // An attempt that hangs may take ten seconds; the end does not wait for it that long.
            let began = Instant::now();
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait_for_exit(), Some(0));
            assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        }
    }

    #[test]
    fn a_collector_whose_certificate_nobody_vouches_for_gets_nothing() {
        let (origin, collector) = (Origin::http(), Origin::https(Authority::new().server_config(&["localhost"])));
        let daemon = {
            let setup = setup(&origin, collector.addr());
            let roots = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
            if !roots.iter().any(|path| std::path::Path::new(path).exists()) {
                println!("SKIP: this host trusts no roots");
                return;
            }
            Daemon::start(setup.set("telemetry.otlp_endpoint", format!("https://localhost:{}", collector.port())))
        };
        let mut client = Client::connect(daemon.proxy);
        assert_eq!(client.get("http://denied.test/", &Daemon::credentials(PERSONA)).status, 403);
        collector.wait_for_connections(1);
        let said = daemon.wait_for_log("the collector of traces does not take spans");
        assert!(said.contains("TLS"), "{said}");
        assert!(collector.seen().is_empty());
        assert_eq!(counted(&daemon, "exported"), 0.0);
    }

    #[test]
    fn a_collector_that_comes_back_gets_the_newest_and_what_was_lost_is_counted() {
        const ROOM: u64 = 4_096;
        let origin = Origin::http();
        // An address of its own, so that nobody takes the port meanwhile.
        let addr = TcpListener::bind("127.0.77.1:0").unwrap().local_addr().unwrap();
        let daemon = Daemon::start(setup(&origin, addr));
        let credentials = Daemon::credentials(PERSONA);
        let mut client = Client::connect(daemon.proxy);
        let asked = ROOM + 100;
        let mut newest = 0;
        for _ in 0..asked {
            let answer = client.get("http://denied.test/", &credentials);
            assert_eq!(answer.status, 403);
            newest = answer.decision();
            if answer.field("connection").is_some_and(|value| value.contains("close")) {
                client = Client::connect(daemon.proxy);
            }
        }
        wait("the losses", || (counted(&daemon, "dropped") == 100.0).then_some(()));
        let collector = Origin::try_http_at(addr).unwrap();
        collector.on("/v1/traces", Script::ok("{}"));
        wait("the spans", || (counted(&daemon, "exported") == ROOM as f64).then_some(()));
        let seqs: BTreeSet<u64> = spans(&collector)
            .iter()
            .map(|span| attributes(span)["arw.ledger.seq"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!((seqs.len() as u64, seqs.last(), seqs.first()), (ROOM, Some(&newest), Some(&(newest - ROOM + 1))));
        assert_eq!(counted(&daemon, "dropped"), 100.0);
    }

    #[test]
    fn a_run_is_told_with_its_launch_and_its_death() {
        if !can_launch() {
            return;
        }
        let (origin, collector) = (Origin::http(), collector());
        let manifest = format!(
            "[[runtimes]]\nid = \"job\"\npersona = \"{PERSONA}\"\nauto_start = true\n\
             [runtimes.process]\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"sleep 2; exit 3\"]\n[runtimes.restart]\npolicy = \"no\"\n"
        );
        let first_uid = i64::from(700_900 + (std::process::id() % 4_000) * 1_000);
        let mut daemon = Daemon::start(
            setup(&origin, collector.addr())
                .set("runtimes.first_uid", first_uid)
                .file("runtime/runtimes.toml", manifest),
        );
        let run = wait_for_span(&collector, "the run", |span| span["name"] == "runtime run");
        let launch = wait_for_span(&collector, "the launch", |span| span["name"] == "runtime launch");
        let said = attributes(&run);
        assert_eq!(
            (&said["arw.runtime"], &said["arw.run"], &said["arw.persona"]),
            (&json!("job"), &json!("1"), &json!(PERSONA))
        );
        assert_eq!((&said["arw.runtime.cause"], &said["error.type"]), (&json!("exit"), &json!("exit")));
        let death = run["events"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&death["name"], &attributes(death)["process.exit.code"]),
            (&json!("arw.runtime.death"), &json!("3"))
        );
        assert_eq!((&launch["traceId"], &launch["parentSpanId"]), (&run["traceId"], &run["spanId"]));
        assert!(nanos(&launch["startTimeUnixNano"]) >= nanos(&run["startTimeUnixNano"]));
        assert!(nanos(&launch["endTimeUnixNano"]) <= nanos(&run["endTimeUnixNano"]));
        assert_eq!(launch.get("status"), None);
        daemon.signal(Signal::SIGINT);
        assert_eq!(daemon.wait_for_exit(), Some(0));
    }
}
