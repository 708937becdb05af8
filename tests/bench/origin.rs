//! The far side of every tunnel and request: one listener that does what the first byte asks.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// First byte of a wish to receive: eight bytes of length follow, and that many bytes are answered.
pub(crate) const SEND_ME: u8 = b'D';
/// First byte of a wish to send: eight bytes of length and the bytes follow, and one byte is answered.
pub(crate) const TAKE_THIS: u8 = b'U';
/// A small answer: 64 bytes of body.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Moved per read and write: large, so that the load is not what limits a bulk sample.
const BLOCK_BYTES: usize = 256 << 10;

/// An origin that ends when dropped. Each sample has its own, so that no sample pays for the ports that an earlier
/// one left in `TIME_WAIT`.
pub(crate) struct Origin {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    accept: JoinHandle<()>,
}

impl Origin {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let port = listener.local_addr()?.port();
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // A client that goes away mid-way is how timed samples end.
                    let _ = serve(stream).await;
                });
            }
        });
        Ok(Self { port, accept })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    let mut first = [0; 1];
    stream.peek(&mut first).await?;
    match first[0] {
        b'G' => serve_http(stream).await,
        SEND_ME | TAKE_THIS => serve_bulk(stream).await,
        _ => serve_echo(stream).await,
    }
}

async fn serve_echo(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn serve_http(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = [0; 2048];
    let mut filled = 0;
    loop {
        let length = stream.read(&mut buffer[filled..]).await?;
        filled += length;
        if length == 0 {
            return Ok(());
        }
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            stream.write_all(ANSWER).await?;
        }
    }
}

async fn serve_bulk(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let wish = stream.read_u8().await?;
        let length = stream.read_u64().await?;
        if wish == SEND_ME {
            send(&mut stream, &block, length).await?;
        } else {
            receive(&mut stream, &mut block, length).await?;
            stream.write_u8(TAKE_THIS).await?;
        }
    }
}

/// Sends `length` bytes, block by block.
pub(crate) async fn send(stream: &mut TcpStream, block: &[u8], length: u64) -> anyhow::Result<()> {
    let mut left = length;
    while left > 0 {
        let now = left.min(block.len() as u64);
        stream.write_all(&block[..now as usize]).await?;
        left -= now;
    }
    Ok(())
}

/// Takes exactly `length` bytes.
pub(crate) async fn receive(stream: &mut TcpStream, block: &mut [u8], length: u64) -> anyhow::Result<()> {
    let mut left = length;
    while left > 0 {
        let room = left.min(block.len() as u64) as usize;
        let now = stream.read(&mut block[..room]).await?;
        anyhow::ensure!(now > 0, "the stream ended {left} bytes early");
        left -= now as u64;
    }
    Ok(())
}

/// A `ClientHello` as a program sends it, for tunnels whose first flight is checked.
pub(crate) fn client_hello(host: &str) -> anyhow::Result<Vec<u8>> {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())?;
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config.into(), name)?.write_tls(&mut hello).context("no ClientHello")?;
    Ok(hello)
}
