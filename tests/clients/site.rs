//! The origin: a small web site that real programs can live with, plain or over TLS, that remembers
//! what reached it.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

use super::program::clean;

/// What `/hello` says.
pub(crate) const HELLO: &str = "hello from the origin\n";

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) version: String,
    /// Names in lower case.
    pub(crate) fields: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Answer {
    fn ok(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, fields: vec![("Content-Type".into(), kind.into())], body: body.into(), chunked: false }
    }

    fn status(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), chunked: false }
    }
}

struct Shared {
    folder: PathBuf,
    seen: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

/// A running site; it stops when dropped.
pub(crate) struct Site {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves the files of `folder`, its `repos/` by `git http-backend`, and a few paths of its own.
    pub(crate) fn start(folder: &Path, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            seen: Mutex::default(),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, tls.as_ref(), &shared)
        });
        Self { addr, shared, accepting: Some(accepting) }
    }

    /// Everything that reached it, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, tls: Option<&Arc<ServerConfig>>, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        shared.open.lock().unwrap().push(stream.try_clone().unwrap());
        let (tls, shared) = (tls.cloned(), Arc::clone(shared));
        connections.push(std::thread::spawn(move || {
            // A client that goes away in the middle is the client's business.
            let _ = match tls {
                None => serve(stream.try_clone().unwrap(), &shared),
                Some(config) => {
                    let session = ServerConnection::new(config).unwrap();
                    serve(StreamOwned::new(session, stream.try_clone().unwrap()), &shared)
                }
            };
            // The copy in `open` would keep it open.
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn serve(stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream)? {
        shared.seen.lock().unwrap().push(request.clone());
        let keep = request.version == "HTTP/1.1" && request.field("connection") != Some("close");
        let answer = answer(&shared.folder, &request);
        write_answer(stream.get_mut(), &request, &answer, keep)?;
        if !keep {
            break;
        }
    }
    Ok(())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_request<S: Read + Write>(stream: &mut BufReader<S>) -> io::Result<Option<Request>> {
    let line = read_line(stream)?;
    if line.is_empty() {
        return Ok(None);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return Err(invalid("request line")) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        version: version.to_owned(),
        ..Request::default()
    };
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("field"))?;
        request.fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if request.field("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.get_mut().flush()?;
    }
    if request.field("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(&read_line(stream)?, 16).map_err(|_| invalid("chunk"))?;
            let mut chunk = vec![0; size];
            stream.read_exact(&mut chunk)?;
            read_line(stream)?;
            if size == 0 {
                break;
            }
            request.body.extend(chunk);
        }
    } else if let Some(length) = request.field("content-length") {
        request.body = vec![0; length.parse().map_err(|_| invalid("length"))?];
        stream.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

fn write_answer(stream: &mut impl Write, request: &Request, answer: &Answer, keep: bool) -> io::Result<()> {
    let mut out = format!("HTTP/1.1 {} Answer\r\n", answer.status).into_bytes();
    for (name, value) in &answer.fields {
        out.extend(format!("{name}: {value}\r\n").bytes());
    }
    if !keep {
        out.extend(b"Connection: close\r\n");
    }
    let chunked = answer.chunked && request.version == "HTTP/1.1";
    if chunked {
        out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    } else {
        out.extend(format!("Content-Length: {}\r\n\r\n", answer.body.len()).bytes());
    }
    if request.method != "HEAD" {
        if chunked {
            for chunk in answer.body.chunks(7) {
                out.extend(format!("{:x}\r\n", chunk.len()).bytes());
                out.extend(chunk);
                out.extend(b"\r\n");
            }
            out.extend(b"0\r\n\r\n");
        } else {
            out.extend(&answer.body);
        }
    }
    stream.write_all(&out)?;
    stream.flush()
}

fn answer(folder: &Path, request: &Request) -> Answer {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/hello") => Answer::ok("text/plain", HELLO),
        ("GET", "/chunked") => Answer { chunked: true, ..Answer::ok("text/plain", HELLO) },
        ("GET", "/to-denied") => {
            let location = format!("http://{}/secret", super::stage::DENIED_HOST);
            Answer { fields: vec![("Location".into(), location)], ..Answer::status(302) }
        }
        ("PUT" | "POST", "/upload") => Answer::ok("text/plain", receipt(&request.body)),
        (_, path) if path.starts_with("/repos/") => repository(folder, request),
        ("GET" | "HEAD", path) => file(folder, path),
        _ => Answer::status(405),
    }
}

/// What `/upload` answers to `body`.
pub(crate) fn receipt(body: &[u8]) -> String {
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {hash}\n", body.len())
}

fn file(folder: &Path, path: &str) -> Answer {
    if path.contains("..") {
        return Answer::status(404);
    }
    let mut file = folder.join(path.trim_start_matches('/'));
    if file.is_dir() {
        file.push("index.html");
    }
    let kind = match file.extension().and_then(|end| end.to_str()) {
        Some("html") => "text/html",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    std::fs::read(&file).map_or_else(|_| Answer::status(404), |body| Answer::ok(kind, body))
}

/// `git http-backend` (git-http-backend(1)) as a CGI program.
fn repository(folder: &Path, request: &Request) -> Answer {
    let mut command = clean("git", folder);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.field("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.field("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", request.field("git-protocol").unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("REMOTE_USER", "tester")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let feeding = std::thread::spawn(move || {
        // The program may have read enough.
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output().unwrap().stdout;
    feeding.join().unwrap();
    let Some(end) = output.windows(4).position(|four| four == b"\r\n\r\n") else { return Answer::status(500) };
    let mut answer = Answer { body: output[end + 4..].to_vec(), ..Answer::status(200) };
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => answer.status = status[..3].parse().unwrap(),
            Some((name, value)) => answer.fields.push((name.to_owned(), value.to_owned())),
            None => {}
        }
    }
    answer
}
