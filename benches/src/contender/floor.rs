//! Blocking sockets and RESP written by hand: [`Floor`].

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::server::OwnServer;

const CHANNEL: &str = "floor";
const PATIENCE: Duration = Duration::from_secs(10);

/// Two sockets: one publishes, the other is subscribed. One thread uses both, so nothing is handed over.
#[derive(Debug)]
pub struct Floor {
    publish: BufReader<TcpStream>,
    subscribe: BufReader<TcpStream>,
    request: Vec<u8>,
    payload: Vec<u8>,
}

impl Floor {
    /// Its name in reports.
    pub const NAME: &str = "blocking sockets";

    /// Connects and subscribes. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(server: &OwnServer) -> Result<Self> {
        let connect = || -> std::io::Result<_> {
            let socket = TcpStream::connect(server.addr())?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(BufReader::new(socket))
        };
        let open = || -> std::io::Result<_> {
            let (publish, mut subscribe) = (connect()?, connect()?);
            let request = format!(
                "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{CHANNEL}\r\n",
                CHANNEL.len()
            );
            subscribe.get_mut().write_all(request.as_bytes())?;
            expect(&mut subscribe, b"*3")?;
            bulk(&mut subscribe, &mut Vec::new())?;
            bulk(&mut subscribe, &mut Vec::new())?;
            expect(&mut subscribe, b":1")?;
            Ok(Self {
                publish,
                subscribe,
                request: Vec::new(),
                payload: Vec::new(),
            })
        };
        open().map_err(Error::io(Self::NAME))
    }

    /// Publishes, and returns when the message has arrived on the other socket. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn send_and_receive(&mut self, payload: &[u8]) -> Result<&[u8]> {
        self.exchange(payload).map_err(Error::io(Self::NAME))?;
        Ok(&self.payload)
    }

    /// Reads the answer to the last publish. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&mut self) -> Result<()> {
        expect(&mut self.publish, b":1").map_err(Error::io(Self::NAME))
    }

    fn exchange(&mut self, payload: &[u8]) -> std::io::Result<()> {
        self.request.clear();
        write!(
            self.request,
            "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{CHANNEL}\r\n${}\r\n",
            CHANNEL.len(),
            payload.len()
        )?;
        self.request.extend_from_slice(payload);
        self.request.extend_from_slice(b"\r\n");
        self.publish.get_mut().write_all(&self.request)?;
        expect(&mut self.subscribe, b"*3")?;
        bulk(&mut self.subscribe, &mut self.payload)?;
        bulk(&mut self.subscribe, &mut self.payload)?;
        bulk(&mut self.subscribe, &mut self.payload)
    }
}

fn expect(from: &mut impl BufRead, line: &[u8]) -> std::io::Result<()> {
    let mut read = Vec::with_capacity(8);
    from.read_until(b'\n', &mut read)?;
    if read.strip_suffix(b"\r\n") == Some(line) {
        Ok(())
    } else {
        Err(unexpected(&read))
    }
}

fn bulk(from: &mut impl BufRead, into: &mut Vec<u8>) -> std::io::Result<()> {
    into.clear();
    from.read_until(b'\n', into)?;
    let len = into
        .strip_prefix(b"$")
        .and_then(|rest| rest.strip_suffix(b"\r\n"))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok())
        .ok_or_else(|| unexpected(into))?;
    into.resize(len + 2, 0);
    from.read_exact(into)?;
    into.truncate(len);
    Ok(())
}

fn unexpected(read: &[u8]) -> std::io::Error {
    let read = String::from_utf8_lossy(read);
    std::io::Error::other(format!("the server answered {read:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole() {
        let mut answer = &b"*3\r\n$3\r\na\r\n\r\n$0\r\n\r\n:1\r\n"[..];
        let mut read = Vec::new();
        expect(&mut answer, b"*3").unwrap();
        bulk(&mut answer, &mut read).unwrap();
        assert_eq!(read, b"a\r\n");
        bulk(&mut answer, &mut read).unwrap();
        assert_eq!(read, b"");
        assert!(bulk(&mut answer, &mut read).is_err());
    }
}
