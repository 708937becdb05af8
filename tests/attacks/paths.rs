//! Paths and methods that a rule would read otherwise than the server behind it.

use crate::ground::{Ground, Row, row};

const READER: &str = "reader";

#[test]
fn a_path_outside_the_rule_has_no_other_spelling() {
    let ground = Ground::new();
    let port = ground.origin.port();
    let rules = format!(
        "[[allow]]\nid = \"public\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{port}]\n\
         schemes = [\"http\"]\nmethods = [\"GET\", \"HEAD\"]\npaths = [\"/public/*\"]\n"
    );
    ground.daemon.write_persona(READER, &rules);
    ground.daemon.sighup();
    let authority = ground.authority();
    let request = |method: &str, path: &str| {
        format!(
            "{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n",
            crate::ground::credentials(READER)
        )
    };
    let paths = [
        ("/secret", 403, "path_not_allowed"),
        ("", 403, "path_not_allowed"),
        ("/", 403, "path_not_allowed"),
        ("?/public/x", 403, "path_not_allowed"),
        ("/PUBLIC/x", 403, "path_not_allowed"),
        ("/publicx", 403, "path_not_allowed"),
        ("//public/x", 403, "path_not_allowed"),
        ("/public/../secret", 400, "malformed"),
        ("/public/..", 400, "malformed"),
        ("/public/.", 400, "malformed"),
        ("/public/./x", 400, "malformed"),
        ("/public/%2e%2e/secret", 400, "malformed"),
        ("/public/%2E%2e/secret", 400, "malformed"),
        ("/public/.%2e/secret", 400, "malformed"),
        ("/public/..%2fsecret", 400, "malformed"),
        ("/public%2f..%2fsecret", 400, "malformed"),
        ("/public/%5c..%5csecret", 400, "malformed"),
        ("/public\\..\\secret", 400, "malformed"),
        ("/public/%00/../secret", 400, "malformed"),
        ("/public/%", 400, "malformed"),
        ("/public/%2", 400, "malformed"),
        ("/public/%zz", 400, "malformed"),
        ("/public/%c0%ae%c0%ae/secret", 400, "malformed"),
        ("/public/..;/secret", 400, "malformed"),
    ];
    let mut rows: Vec<Row> =
        paths.iter().map(|(path, status, code)| row(*path, request("GET", path), *status, code)).collect();
    for method in ["POST", "DELETE", "get", "GETX", "PROPFIND"] {
        rows.push(row(method, request(method, "/public/x"), 403, "method_not_allowed"));
    }
    let connect =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n", crate::ground::credentials(READER));
    rows.push(row("a tunnel", connect, 403, "scheme_not_allowed"));
    ground.refuse_all(&rows);
}
